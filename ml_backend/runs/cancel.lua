-- Cancel a run: at once while it waits; while it trains, its trainer is told at the next renewal.
-- ARGV: 4 run id, 5 ending
-- Returns 'cancelled', 'cancelling', 'over', or '' for a run that nobody knows.
local id = redis.call('HGET', record(ARGV[4]), 'into') or ARGV[4]
if redis.call('HGET', WAITING, 'id') == id then
    redis.call('DEL', WAITING)
    close(id, 'cancelled', ARGV[5], '', '', '{}')
    return 'cancelled'
end
if redis.call('HGET', RUNNING, 'id') == id then
    redis.call('HSET', RUNNING, 'cancel', '1')
    redis.call('HSET', record(id), 'cancelling', '1', 'updated', NOW)
    return 'cancelling'
end
return redis.call('EXISTS', record(id)) == 1 and 'over' or ''
