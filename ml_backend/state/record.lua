-- Records one event: training set, counters, what changed since the last run. Atomic and idempotent.
--
-- KEYS  1 P:meta  2 P:annotations  3 P:tasks  4 P:of-task  5 P:changed  6 P:gone  7 P:config  8 P:touched
--       9 <prefix>uids  10 <prefix>due  11 P:running  12 P:waiting  13 P:runs  14 P:paused
-- ARGV  1 now (s)  2 uid  3 project id  4 title or ''  5 config hash or ''  6 config or ''  7 project updated_at (us) or ''
--       8 project threshold or ''  9 extra params (JSON) or ''  10 date of the counters (us), 'undated', or ''
--       11-18 the eight counters  19 'annotations', 'start' (START_TRAINING), 'tasks' (created) or ''
--       20 a sync that is wanted ('complete', 'incremental') or ''
--       21 how many operations, which follow
-- Returns JSON (one text is cheaper to make and to read than a hundred values): [changes, config is needed (0/1), changed in
--   all, [HGETALL P:meta], P:running id, P:waiting id, stale operations, [HGETALL P:runs], P:paused]

operate(22, tonumber(ARGV[21]))
store_counts()
-- Whether it says anything that was not known.
local told = seq ~= before
if ARGV[19] == 'start' then set('last_start', ARGV[1]) end
if ARGV[19] == 'tasks' then set('last_tasks', ARGV[1]) end
if ARGV[20] ~= '' then set('want_' .. ARGV[20], ARGV[1]); told = true end

-- What the payload says of the project counts only when it is not older than what is known.
local config_needed, new_settings = 0, not known[1]
local project_updated = tonumber(ARGV[7])
local heard = false
local newer = not project_updated or project_updated >= number(known[9])
if newer then
  if project_updated and ARGV[7] ~= known[9] then set('project_updated', ARGV[7]); heard = true end
  if ARGV[4] ~= '' and ARGV[4] ~= known[14] then set('title', ARGV[4]) end
  if ARGV[8] ~= '' and ARGV[8] ~= known[15] then set('threshold', ARGV[8]) end
  if ARGV[5] ~= '' and ARGV[5] ~= known[10] then
    if ARGV[6] ~= '' then
      redis.call('SET', KEYS[7], ARGV[6])
      set('config_hash', ARGV[5])
      new_settings = true
    else
      config_needed = 1
    end
  end
end
if ARGV[9] ~= '' and ARGV[9] ~= known[16] then set('params', ARGV[9]); new_settings = true end

-- Counters: dated ones replace older ones; undated ones only raise suspicion. After a late event that changed something the
-- newest are compared again; a repeat says nothing new.
if ARGV[10] ~= '' then
  local date, reported = tonumber(ARGV[10]), {}
  if not date or date > number(known[11]) then
    for i = 11, 18 do reported[#reported + 1] = ARGV[i] end
    if date then set('reported_at', ARGV[10]); set('reported', table.concat(reported, ',')) end
    compare(reported)
    told = true
  elseif seq ~= before then
    for value in string.gmatch(redis.call('HGET', meta_key, 'reported'), '%d+') do reported[#reported + 1] = value end
    compare(reported)
  end
end

-- A repeat moves it only when it may be the event of a START_TRAINING that a sync was faster than (fact 12).
if ARGV[19] == 'annotations' and (told or number(known[19]) >= number(known[18])) then set('last_annotation', ARGV[1]) end
-- START_TRAINING comes with the connection, everything else by the webhook: so this tells that the webhook works.
if (told or heard) and ARGV[19] ~= 'start' then set('heard', ARGV[1]) end
if told then stir() elseif new_settings then look() end
save()
return cjson.encode({seq - before, config_needed, redis.call('ZCARD', changed_key), redis.call('HGETALL', meta_key),
  redis.call('HGET', KEYS[11], 'id') or '', redis.call('HGET', KEYS[12], 'id') or '', stale,
  redis.call('HGETALL', KEYS[13]), redis.call('GET', KEYS[14]) or ''})
