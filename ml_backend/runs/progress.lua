-- How far the run is, for people; what it says anew is kept beside its record, the last few, newest first.
-- ARGV: 4 run id, 5 token, 6 nonce, 7 phase, 8 fraction, 9 message
-- Returns held (0 or 1); 0 wrote nothing.
if not holds(ARGV[4], ARGV[5], ARGV[6]) then
    return 0
end
local said = redis.call('HMGET', record(ARGV[4]), 'phase', 'message')
redis.call('HSET', record(ARGV[4]), 'phase', ARGV[7], 'fraction', ARGV[8], 'message', ARGV[9], 'updated', NOW)
if said[1] ~= ARGV[7] or (said[2] ~= ARGV[9] and ARGV[9] ~= '') then
    local messages = record(ARGV[4]) .. ':messages'
    redis.call('LPUSH', messages, cjson.encode({at = tonumber(NOW), phase = ARGV[7], fraction = tonumber(ARGV[8]), message = ARGV[9]}))
    redis.call('LTRIM', messages, 0, MESSAGES - 1)
    redis.call('EXPIRE', messages, MESSAGES_KEPT_SECONDS)
end
return 1
