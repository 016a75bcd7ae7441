-- Ask for a run. A run that waits already is joined: the earlier due time counts, and a click sticks.
-- A click lifts a pause and a back-off, and is handed to RQ again, this time to the front of the queue.
-- ARGV: 4 start of the run id, 5 trigger, 6 reason, 7 due, 8 click (0 or 1),
--       9 only if no run has started since `now`, when it was decided (0 or 1)
-- Returns {run id, joined (0 or 1), why it is held back or ''}, or {} where a run has started since.
local trigger, reason, due, click = ARGV[5], ARGV[6], ARGV[7], ARGV[8]
if ARGV[9] == '1' and redis.call('EXISTS', WAITING) == 0 then
    local ended = tonumber(redis.call('HGET', SUMMARY, 'last_ended') or '0')
    if redis.call('EXISTS', RUNNING) == 1 or ended > tonumber(NOW) then
        return {}
    end
end
if click == '1' then
    redis.call('DEL', PAUSED)
end
local waiting = redis.call('HMGET', WAITING, 'id', 'due', 'click', 'not_before')
local id, joined = waiting[1], 1
if id then
    if tonumber(waiting[2]) < tonumber(due) then
        due = waiting[2]
    end
    redis.call('HSET', WAITING, 'due', due)
    redis.call('HSET', record(id), 'due', due, 'updated', NOW)
    redis.call('HINCRBY', record(id), 'joined', 1)
    if click == '1' and waiting[3] ~= '1' then
        redis.call('HSET', WAITING, 'click', '1', 'enqueued', '')
        redis.call('HSET', record(id), 'click', '1', 'trigger', trigger, 'reason', reason, 'enqueued', '')
    end
    if click == '1' then
        redis.call('HSET', WAITING, 'not_before', '0')
    elseif tonumber(waiting[4]) > tonumber(due) then
        redis.call('HSET', record(id), 'due', waiting[4])
        due = waiting[4]
    end
else
    joined = 0
    id = ARGV[4] .. redis.call('INCR', SEQ)
    redis.call('HSET', WAITING, 'id', id, 'due', due, 'not_before', '0', 'click', click, 'enqueued', '', 'enqueues', '0')
    redis.call('DEL', record(id))
    redis.call('HSET', record(id), 'id', id, 'uid', UID, 'status', 'queued', 'trigger', trigger, 'reason', reason,
        'click', click, 'requested', NOW, 'due', due, 'updated', NOW, 'joined', '0', 'attempts', '0', 'losses', '0',
        'hand_backs', '0', 'enqueues', '0', 'fraction', '0')
end
look_at(due)
return {id, joined, redis.call('GET', PAUSED) or ''}
