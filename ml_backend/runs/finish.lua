-- The run is over. Failures in a row are counted; the bound pauses the project. A repeated call (its answer was lost
-- on the way) is told that it succeeded.
-- ARGV: 4 run id, 5 token, 6 nonce, 7 status, 8 ending, 9 error, 10 traceback, 11 details as JSON,
--       12 counts as a failure (0 or 1), 13 failures in a row that pause
-- Returns held (0 or 1); 0 wrote nothing.
local id, status = ARGV[4], ARGV[7]
if not holds(id, ARGV[5], ARGV[6]) then
    local ended = redis.call('HMGET', record(id), 'token', 'nonce', 'status')
    return (ended[1] == ARGV[5] and ended[2] == ARGV[6] and ended[3] == status) and 1 or 0
end
redis.call('DEL', RUNNING)
release(id, ARGV[6])
close(id, status, ARGV[8], ARGV[9], ARGV[10], ARGV[11])
if status == 'succeeded' then
    redis.call('HSET', SUMMARY, 'failures', '0')
elseif status == 'failed' and ARGV[12] == '1' then
    local failures = redis.call('HINCRBY', SUMMARY, 'failures', 1)
    if failures >= tonumber(ARGV[13]) then
        redis.call('SET', PAUSED, failures .. ' runs failed in a row; the last one: ' .. ARGV[9])
    end
end
return 1
