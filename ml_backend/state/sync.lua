-- Applies what Label Studio's API said: like record.lua, but it wins on equal dates, revives what was thought deleted,
-- and yields to whatever an event touched since the sync began.
--
-- KEYS  as record.lua
-- ARGV  1 now (s)  2 uid  3 project id  4 how many operations, which follow
-- Returns {changes, annotations now stored}

from_sync = true
operate(5, tonumber(ARGV[4]))
store_counts()
if seq ~= before then
  redis.call('HINCRBY', meta_key, 'touch', 1)
  redis.call('ZADD', KEYS[10], ARGV[1], ARGV[2])
end
redis.call('HSET', meta_key, unpack(update))
return {seq - before, redis.call('HLEN', annotations)}
