-- The waiting run is due and nothing trains: mark it as handed to RQ and say what must be enqueued.
-- A run that was handed over long ago and still waits is asked about first ("check"): the caller looks whether RQ
-- still has the job and calls again with what it saw.
-- ARGV: 4 seconds after which to ask, 5 what the caller saw ('', 'queued', 'gone'), 6 the enqueue it looked for
-- Returns {''} nothing to do, {'check', run id, enqueue}, {'enqueue', run id, enqueue, click}.
local recheck, seen = tonumber(ARGV[4]), ARGV[5]
local waiting = redis.call('HMGET', WAITING, 'id', 'due', 'not_before', 'click', 'enqueued', 'enqueues')
local id, click, enqueued = waiting[1], waiting[4], waiting[5]
if not id or redis.call('EXISTS', RUNNING) == 1 then
    return {''}
end
if click ~= '1' and redis.call('EXISTS', PAUSED) == 1 then
    return {''}
end
if math.max(tonumber(waiting[2]), tonumber(waiting[3])) > tonumber(NOW) then
    return {''}
end
if enqueued ~= '' then
    if seen == '' then
        if tonumber(NOW) - tonumber(enqueued) < recheck then
            return {''}
        end
        return {'check', id, waiting[6]}
    end
    if waiting[6] ~= ARGV[6] then
        return {''}
    end
    if seen == 'queued' then
        redis.call('HSET', WAITING, 'enqueued', NOW)
        return {''}
    end
end
local enqueue = redis.call('HINCRBY', WAITING, 'enqueues', 1)
redis.call('HSET', WAITING, 'enqueued', NOW)
redis.call('HSET', record(id), 'enqueued', NOW, 'enqueues', enqueue, 'updated', NOW)
look_at(string.format('%.6f', tonumber(NOW) + recheck))
return {'enqueue', id, tostring(enqueue), click}
