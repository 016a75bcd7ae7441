-- Everything about a project's runs in one read.
-- Returns {waiting hash, its record, running hash, its record, pause or '', summary hash}, hashes as flat lists.
local waiting = redis.call('HGETALL', WAITING)
local running = redis.call('HGETALL', RUNNING)
local first = redis.call('HGET', WAITING, 'id')
local second = redis.call('HGET', RUNNING, 'id')
return {
    waiting, first and redis.call('HGETALL', record(first)) or {},
    running, second and redis.call('HGETALL', record(second)) or {},
    redis.call('GET', PAUSED) or '', redis.call('HGETALL', SUMMARY),
}
