-- A run leaves its worker without an end of its own, and waits again:
--   hand_back  the worker was asked to stop: at once, no penalty
--   lose       the worker knows that its trainer is gone, through no fault of the model: later and later
--   expire     nobody renewed the lease in time: like lose, for whoever notices it (no lease needed)
-- A run that was being cancelled ends as cancelled; one that was lost too often ends as lost and pauses the project.
-- ARGV: 4 hand_back | lose | expire, 5 run id, 6 token, 7 nonce (5-7 empty for expire), 8 message,
--       9 losses that end a run, 10 longest back-off in seconds
-- Returns {''} nothing done, or {queued | cancelled | lost, run id, worker, losses, not before}.
local how, message = ARGV[4], ARGV[8]
local running = redis.call('HMGET', RUNNING, 'id', 'worker', 'expires', 'cancel')
local id, worker = running[1], running[2]
if not id then
    return {''}
end
if how == 'expire' then
    if tonumber(running[3]) > tonumber(NOW) then
        return {''}
    end
elseif not holds(ARGV[5], ARGV[6], ARGV[7]) then
    return {''}
end
redis.call('DEL', RUNNING)
if how == 'hand_back' then
    release(id, ARGV[7])
end
local losses = tonumber(redis.call('HGET', record(id), 'losses') or '0')
if running[4] == '1' then
    close(id, 'cancelled', 'cancelled; ' .. message, '', '', '{}')
    return {'cancelled', id, worker, tostring(losses), NOW}
end
if how == 'hand_back' then
    redis.call('HINCRBY', record(id), 'hand_backs', 1)
    requeue(id, NOW, message)
    return {'queued', id, worker, tostring(losses), NOW}
end
losses = redis.call('HINCRBY', record(id), 'losses', 1)
if losses >= tonumber(ARGV[9]) then
    local ending = 'its worker was lost ' .. losses .. ' times; the last time: ' .. message
    close(id, 'lost', ending, ending, '', '{}')
    redis.call('SET', PAUSED, 'run ' .. id .. ' was given up: ' .. ending)
    return {'lost', id, worker, tostring(losses), NOW}
end
local pause = math.min(2 ^ (losses - 1), tonumber(ARGV[10]))
local not_before = string.format('%.6f', tonumber(NOW) + pause)
requeue(id, not_before, message)
return {'queued', id, worker, tostring(losses), not_before}
