-- The gate: the waiting run starts to train, under a new fencing token. Whoever comes second is turned away; the
-- same caller asking again (its answer was lost on the way) gets the lease it already has.
-- ARGV: 4 run id, 5 worker, 6 nonce of this call, 7 lease in seconds
-- Returns {} or {token, expires, attempt, trigger, reason, click}.
local id, worker, nonce = ARGV[4], ARGV[5], ARGV[6]
local running = redis.call('HMGET', RUNNING, 'id', 'nonce', 'token', 'expires')
local token, expires, attempt
if running[1] then
    if running[1] ~= id or running[2] ~= nonce then
        return {}
    end
    token, expires = running[3], running[4]
    attempt = redis.call('HGET', record(id), 'attempts')
else
    local waiting = redis.call('HMGET', WAITING, 'id', 'enqueued', 'click')
    if waiting[1] ~= id or waiting[2] == '' then
        return {}
    end
    if waiting[3] ~= '1' and redis.call('EXISTS', PAUSED) == 1 then
        return {}
    end
    token = tostring(redis.call('INCR', TOKEN))
    expires = string.format('%.6f', tonumber(NOW) + tonumber(ARGV[7]))
    redis.call('DEL', WAITING)
    redis.call('HSET', RUNNING, 'id', id, 'token', token, 'nonce', nonce, 'worker', worker,
        'expires', expires, 'cancel', '0')
    attempt = redis.call('HINCRBY', record(id), 'attempts', 1)
    redis.call('HSET', record(id), 'status', 'started', 'started', NOW, 'updated', NOW, 'worker', worker,
        'token', token, 'nonce', nonce, 'phase', 'starting', 'fraction', '0', 'message', '')
    if waiting[3] ~= '1' then -- a person's wish uses up nothing of what the policy may do in a day
        redis.call('ZADD', STARTS, 'NX', NOW, id)
    end
    redis.call('ZREMRANGEBYSCORE', STARTS, '-inf', string.format('%.6f', tonumber(NOW) - 24 * 3600))
    look_at(expires)
end
local asked = redis.call('HMGET', record(id), 'trigger', 'reason', 'click')
return {token, expires, tostring(attempt), asked[1] or '', asked[2] or '', asked[3] or '0'}
