-- Shared by record.lua and sync.lua, which are appended to it: the training set and its counts. Keys and first arguments are theirs.
--
-- Operations, seven arguments each:
--   'w' annotation: id, task, created (us), updated (us), flags, body
--   'k' task: id, created (us), updated (us), '', '', body
--   'd' annotation deleted: id, '', '', '', '', ''
--   'x' task deleted: id, '', '', '', '', ''
-- Flags: 1 skipped, 2 ground truth, 4 has a result, 8 bulk-accepted prediction, 16 began as a prediction.
-- A stored annotation is struct '>dddB' (created, updated, task, flags) and its body; a stored task is '>dd' (created,
-- updated) and its body; P:of-task holds '<annotation id>:<flags>' joined by ';'.
-- Tombstones in P:gone: 'a<id>' -> created_at of what was deleted, or '~<arrival, us>' when that was never seen; 't<id>' alike.

local now = tonumber(ARGV[1])
local now_us = now * 1000000
local meta_key, annotations, tasks, of_task = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local changed_key, gone, touched = KEYS[5], KEYS[6], KEYS[8]

local known = redis.call('HMGET', meta_key, 'uid', 'seq', 'total', 'useful', 'gt', 'skipped', 'trainable', 'tasks', 'project_updated',
  'config_hash', 'reported_at', 'syncing', 'bulk', 'title', 'threshold', 'params')
local function number(value) return tonumber(value or 0) or 0 end
local seq, total, useful, gt, skipped = number(known[2]), number(known[3]), number(known[4]), number(known[5]), number(known[6])
local trainable, task_count = number(known[7]), number(known[8])
local bulk = number(known[13])
local before = seq
local from_sync = false -- what Label Studio's API says wins on equal dates, brings the dead back, and yields to later events
local stale = 0
local update = {'touch_at', ARGV[1]}
local function set(name, value) update[#update + 1] = name; update[#update + 1] = value end

if not known[1] then
  set('uid', ARGV[2]); set('project', ARGV[3]); set('first_seen', ARGV[1]); set('schema', '1')
  local uids = redis.call('HGET', KEYS[9], ARGV[3])
  redis.call('HSET', KEYS[9], ARGV[3], uids and (uids .. ',' .. ARGV[2]) or ARGV[2])
end

local function has(flags, bit) return math.floor(flags / bit) % 2 == 1 end
local function is_useful(flags) return has(flags, 4) and not has(flags, 1) and not has(flags, 2) end
local function count(flags, sign)
  if has(flags, 1) then skipped = skipped + sign else total = total + sign end
  if has(flags, 2) then gt = gt + sign end
  if is_useful(flags) then useful = useful + sign end
  if has(flags, 4) and not has(flags, 1) then
    if has(flags, 8) then bulk = bulk + sign else trainable = trainable + sign end
  end
end

local syncing = known[12]
local function change(id)
  seq = seq + 1
  redis.call('ZADD', changed_key, seq, id)
  if syncing and not from_sync then redis.call('SADD', touched, id) end
end

local function siblings(task)
  local list, text = {}, redis.call('HGET', of_task, task)
  if text then
    for id, flags in string.gmatch(text, '(%d+):(%d+)') do list[#list + 1] = {id, tonumber(flags)} end
  end
  return list
end
local function any_useful(list)
  for _, one in ipairs(list) do if is_useful(one[2]) then return 1 end end
  return 0
end
local function keep(task, list, useful_before)
  task_count = task_count + any_useful(list) - useful_before
  if #list == 0 then redis.call('HDEL', of_task, task) return end
  local parts = {}
  for i, one in ipairs(list) do parts[i] = one[1] .. ':' .. string.format('%d', one[2]) end
  redis.call('HSET', of_task, task, table.concat(parts, ';'))
end
local function header(value) return struct.unpack('>dddB', value) end
local function text(n) return string.format('%.0f', n) end

local function remove(id, task, flags, keep_data)
  count(flags, -1)
  local list = siblings(task)
  local was, left = any_useful(list), {}
  for _, one in ipairs(list) do if one[1] ~= id then left[#left + 1] = one end end
  keep(task, left, was)
  redis.call('HDEL', annotations, id)
  if #left == 0 and not keep_data then redis.call('HDEL', tasks, task) end
end

-- Whether what is deleted under this name is the thing created at `created` (fact 5: ids are used again).
local function dead(name, created)
  local tomb = redis.call('HGET', gone, name)
  if not tomb or from_sync then return false end
  local limit = tonumber((string.gsub(tomb, '^~', '')))
  if created > 0 and created > limit then return false end
  return true
end

local function write(id, task, created, updated, flags, body)
  if from_sync and redis.call('SISMEMBER', touched, id) == 1 then return end
  if dead('a' .. id, created) then stale = stale + 1 return end
  local old = redis.call('HGET', annotations, id)
  if old then
    local was_created, was_updated, was_task, was_flags, at = header(old)
    local was_body = string.sub(old, at)
    was_task = text(was_task)
    if created > 0 and was_created > 0 and created < was_created then stale = stale + 1 return end
    if created > was_created and was_created > 0 then
      remove(id, was_task, was_flags, was_task == task)
      old = nil
    else
      if updated > 0 and (updated < was_updated or (updated == was_updated and not from_sync)) then
        if updated < was_updated or was_flags ~= flags or was_body ~= body or was_task ~= task then stale = stale + 1 end
        return
      end
      if was_flags == flags and was_body == body and was_task == task then
        redis.call('HSET', annotations, id, struct.pack('>dddB', created > 0 and created or was_created, updated, tonumber(task), flags) .. body)
        return
      end
      if created == 0 then created = was_created end
      if was_task ~= task then
        remove(id, was_task, was_flags)
        old = nil
      else
        count(was_flags, -1)
      end
    end
  end
  local list = siblings(task)
  local was = any_useful(list)
  if has(flags, 2) and not from_sync then
    -- Fact 23: a new ground truth takes the mark from its siblings, and nobody says so.
    for _, one in ipairs(list) do
      if one[1] ~= id and has(one[2], 2) then
        local value = redis.call('HGET', annotations, one[1])
        local c, u, t, f, at = header(value)
        if updated > 0 and u > updated then
          flags = flags - 2
          break
        end
        count(f, -1)
        f = f - 2
        count(f, 1)
        one[2] = f
        redis.call('HSET', annotations, one[1], struct.pack('>dddB', c, u, t, f) .. string.sub(value, at))
        change(one[1])
      end
    end
  end
  local found = false
  for _, one in ipairs(list) do
    if one[1] == id then one[2] = flags; found = true end
  end
  if not found then list[#list + 1] = {id, flags} end
  keep(task, list, was)
  count(flags, 1)
  redis.call('HSET', annotations, id, struct.pack('>dddB', created, updated, tonumber(task), flags) .. body)
  redis.call('HDEL', gone, 'a' .. id)
  if redis.call('HEXISTS', tasks, task) == 0 then set('dataless', '1') end
  change(id)
end

local function delete(id)
  if from_sync and redis.call('SISMEMBER', touched, id) == 1 then return end
  local old = redis.call('HGET', annotations, id)
  if not old then
    if syncing and not from_sync then redis.call('SADD', touched, id) end
    if redis.call('HEXISTS', gone, 'a' .. id) == 0 then
      redis.call('HSET', gone, 'a' .. id, '~' .. text(now_us))
    else
      stale = stale + 1
    end
    return
  end
  local created, _, task, flags = header(old)
  remove(id, text(task), flags)
  redis.call('HSET', gone, 'a' .. id, created > 0 and text(created) or ('~' .. text(now_us)))
  change(id)
end

local function write_task(id, created, updated, body)
  if dead('t' .. id, created) then return false end
  local old = redis.call('HGET', tasks, id)
  if old then
    local was_created, was_updated, at = struct.unpack('>dd', old)
    if created > was_created and was_created > 0 then
      for _, one in ipairs(siblings(id)) do delete(one[1]) end
    elseif updated < was_updated or string.sub(old, at) == body then
      return true
    else
      for _, one in ipairs(siblings(id)) do change(one[1]) end
    end
  end
  redis.call('HSET', tasks, id, struct.pack('>dd', created, updated) .. body)
  redis.call('HDEL', gone, 't' .. id)
  return true
end

local function delete_task(id)
  local old = redis.call('HGET', tasks, id)
  local created = old and struct.unpack('>dd', old) or 0
  for _, one in ipairs(siblings(id)) do delete(one[1]) end
  redis.call('HDEL', tasks, id)
  redis.call('HSET', gone, 't' .. id, created > 0 and text(created) or ('~' .. text(now_us)))
end

local function operate(at, how_many)
  local dead_tasks = {}
  for _ = 1, how_many do
    local kind, id = ARGV[at], ARGV[at + 1]
    if kind == 'w' then
      local task, created = ARGV[at + 2], tonumber(ARGV[at + 3])
      if dead_tasks[task] or (redis.call('HEXISTS', tasks, task) == 0 and dead('t' .. task, created)) then
        stale = stale + 1
      else
        write(id, task, created, tonumber(ARGV[at + 4]), tonumber(ARGV[at + 5]), ARGV[at + 6])
      end
    elseif kind == 'k' then
      if not write_task(id, tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3]), ARGV[at + 6]) then dead_tasks[id] = true end
    elseif kind == 'd' then
      delete(id)
    else
      delete_task(id)
    end
    at = at + 7
  end
end

local function store_counts()
  if seq == before then return end
  set('seq', text(seq)); set('total', text(total)); set('useful', text(useful)); set('gt', text(gt)); set('skipped', text(skipped))
  set('trainable', text(trainable)); set('tasks', text(task_count)); set('bulk', text(bulk))
  set('last_change', ARGV[1])
  if redis.call('HEXISTS', meta_key, 'first_change') == 0 then set('first_change', ARGV[1]) end
end
