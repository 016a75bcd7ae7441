-- A sync ends. What events say counts again in full.
--
-- KEYS  as record.lua
-- ARGV  1 now (s)  2 uid  3 project id  4 token  5 outcome ('complete', 'incremental', 'aborted')
--       6 'touch' of the project when the counters were asked for  7 their date in Label Studio's time (us) or ''
--       8 the counters, joined by commas, or ''
-- Returns {1 done, or 0: another sync has begun, nothing was written; 1 the counters were compared and differ, else 0}

if ARGV[4] ~= syncing then return {0, 0} end
local found = redis.call('HMGET', meta_key, 'sync_began', 'sync_from', 'dataless', 'want_complete', 'want_incremental')
local began = number(found[1])
-- What came up while it ran is left for the next one.
local function settled(name, since) if number(since) < began then redis.call('HDEL', meta_key, name) end end
redis.call('HDEL', meta_key, 'syncing', 'sync_kind', 'sync_began', 'sync_cursor', 'sync_from')
redis.call('DEL', touched)
local differs = false
if ARGV[5] ~= 'aborted' then
  set('synced_at', ARGV[1])
  if found[2] and found[2] ~= '' then set('synced_until', found[2]) end
  settled('want_incremental', found[5])
  if ARGV[5] == 'complete' then
    set('complete_at', ARGV[1])
    settled('want_complete', found[4])
    settled('dataless', found[3])
  end
  -- An event since the counters were asked for brought newer ones, and was compared itself.
  if ARGV[8] ~= '' and number(known[17]) == tonumber(ARGV[6]) then
    local reported = {}
    for value in string.gmatch(ARGV[8], '%d+') do reported[#reported + 1] = value end
    set('reported', ARGV[8])
    if number(ARGV[7]) > number(known[11]) then set('reported_at', ARGV[7]) end
    redis.call('HDEL', meta_key, 'drift_since')
    differs = compare(reported)
  end
end
stir()
save()
return {1, differs and 1 or 0}
