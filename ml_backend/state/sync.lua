-- Applies what Label Studio's API said: like record.lua, but it wins whatever the dates say, revives what was thought
-- deleted, and yields to whatever an event changed since the sync began.
--
-- KEYS  as record.lua
-- ARGV  1 now (s)  2 uid  3 project id  4 token of the sync, '' without one  5 the sync's new cursor (a task id) or ''
--       6 how many operations, which follow
-- Returns {changes, annotations now stored}, or {-1} when another sync has begun since: nothing was written then.

if ARGV[4] ~= '' and ARGV[4] ~= syncing then return {-1} end
from_sync = true
operate(7, tonumber(ARGV[6]))
store_counts()
if ARGV[5] ~= '' then set('sync_cursor', ARGV[5]) end
if seq ~= before then stir() end
save()
return {seq - before, redis.call('HLEN', annotations)}
