-- The trainer is alive: its lease counts from now again.
-- ARGV: 4 run id, 5 token, 6 nonce, 7 lease in seconds
-- Returns {held (0 or 1), cancelled (0 or 1)}.
if not holds(ARGV[4], ARGV[5], ARGV[6]) then
    return {0, 0}
end
redis.call('HSET', RUNNING, 'expires', string.format('%.6f', tonumber(NOW) + tonumber(ARGV[7])))
return {1, tonumber(redis.call('HGET', RUNNING, 'cancel'))}
