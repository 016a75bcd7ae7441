-- Shared by record.lua and sync.lua, which are appended to it: the training set and its counts. Keys and first arguments are theirs.
--
-- Operations, seven arguments each:
--   'k' task: id, created (us), updated (us), '', '', body
--   'w' annotation: id, task, created (us), updated (us), flags, body
--   'd' annotation deleted: id, '', '', '', '', ''
--   'x' task deleted: id, '', '', '', '', ''
--   'o' a task's annotations are these and no others (from syncs, as 'd' and 'x' are from events): task, '<id>,<id>…'
--       and four empty ones
-- Flags: 1 skipped, 2 ground truth, 4 has a result, 8 bulk-accepted prediction, 16 began as a prediction; 32, not stored:
-- this event says that it was created.
-- A stored annotation is struct '>dddB' (created, updated, task, flags) and its body; a stored task is '>dd' (created,
-- updated) and its body; P:of-task holds '<annotation id>:<flags>' joined by ';'.
--
-- P:gone holds what must be remembered of what is not there any more:
--   'a<id>', 't<id>' -> '<until>:<arrival><mark>', both in us: what was created up to <until> is deleted. The mark '?': the
--       deletion was of something never seen, which was created before <arrival>. The mark '!<task>': it was replaced by
--       its successor in the id (fact 5) before its deletion, or its task's, came: that must not hit the successor.
--   'g<task>' -> when (us) the ground truth mark is known to have been on one of its annotations: older claims are void.
-- P:touched holds what events changed since a sync began: '<annotation id>', 't<task id>', 'g<task id>' for its mark, and
-- 'r<annotation id>:<created>' (us) for one that went with its task: of another that has its id no event said anything.

local now = tonumber(ARGV[1])
local now_us = now * 1000000
local OWED_US = 3 * 1000000 -- Label Studio gives up an event after a second: what comes later is none that was overtaken
local meta_key, annotations, tasks, of_task = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local changed_key, gone, touched = KEYS[5], KEYS[6], KEYS[8]

local known = redis.call('HMGET', meta_key, 'uid', 'seq', 'total', 'useful', 'gt', 'skipped', 'trainable', 'tasks', 'project_updated',
  'config_hash', 'reported_at', 'syncing', 'bulk', 'title', 'threshold', 'params', 'touch', 'last_annotation', 'last_start',
  'schema')
if known[20] and tonumber(known[20]) > 1 then
  return redis.error_reply('NEWERSTATE the state of project ' .. ARGV[2] .. ' was written by a newer release (schema ' .. known[20] ..
    ', this one reads 1): upgrade ml-backend here too')
end
local function number(value) return tonumber(value or 0) or 0 end
local seq, total, useful, gt, skipped = number(known[2]), number(known[3]), number(known[4]), number(known[5]), number(known[6])
local trainable, task_count, bulk = number(known[7]), number(known[8]), number(known[13])
local syncing = known[12]
local before = seq
local from_sync = false -- what Label Studio's API says: it wins, and brings the dead back, but yields to events since it began
local stale = 0
local update, place = {}, {}
local function set(name, value)
  local at = place[name] or #update + 1
  place[name], update[at], update[at + 1] = at, name, value
end
-- What changes nothing writes nothing: the disk is not waited for.
local function save() if #update > 0 then redis.call('HSET', meta_key, unpack(update)) end end
-- The clock looks at the project, at the latest now.
local function look() redis.call('ZADD', KEYS[10], 'LT', ARGV[1], ARGV[2]) end
-- The same, after something was told of it.
local function stir() set('touch', string.format('%.0f', number(known[17]) + 1)); look() end

if not known[1] then
  set('uid', ARGV[2]); set('project', ARGV[3]); set('first_seen', ARGV[1]); set('schema', '1')
  local uids = redis.call('HGET', KEYS[9], ARGV[3])
  redis.call('HSET', KEYS[9], ARGV[3], uids and (uids .. ',' .. ARGV[2]) or ARGV[2])
end

local function has(flags, bit) return math.floor(flags / bit) % 2 == 1 end
local function origin(flags) return math.floor(flags / 8) % 4 * 8 end
local function is_useful(flags) return has(flags, 4) and not has(flags, 1) and not has(flags, 2) end
local function count(flags, sign)
  if has(flags, 1) then skipped = skipped + sign else total = total + sign end
  if has(flags, 2) then gt = gt + sign end
  if is_useful(flags) then useful = useful + sign end
  if has(flags, 4) and not has(flags, 1) then
    if has(flags, 8) then bulk = bulk + sign else trainable = trainable + sign end
  end
end

local function touch(name)
  if syncing and not from_sync then redis.call('SADD', touched, name) end
end
-- Whether an event changed this since the sync began: the sync's answer may be older.
local function is_touched(name) return from_sync and redis.call('SISMEMBER', touched, name) == 1 end
-- `unsaid`: the training set changes here, but the event says nothing about this annotation itself.
local function change(id, unsaid)
  seq = seq + 1
  redis.call('ZADD', changed_key, seq, id)
  if not unsaid then touch(id) end
end

local function text(n) return string.format('%.0f', n) end
local function header(value) return struct.unpack('>dddB', value) end
local function pack(created, updated, task, flags, body)
  return struct.pack('>dddB', created, updated, tonumber(task), flags) .. body
end

local function siblings(task)
  local list, found = {}, redis.call('HGET', of_task, task)
  if found then
    for id, flags in string.gmatch(found, '(%d+):(%d+)') do list[#list + 1] = {id, tonumber(flags)} end
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
  for i, one in ipairs(list) do parts[i] = one[1] .. ':' .. text(one[2]) end
  redis.call('HSET', of_task, task, table.concat(parts, ';'))
end

-- Tombstones.
local function tomb(name)
  local value = redis.call('HGET', gone, name)
  if not value then return nil end
  local limit, arrival, mark, task = string.match(value, '^(%d+):(%d+)(.?)(%d*)$')
  return tonumber(limit), tonumber(arrival), mark, task
end
local function bury(name, limit, mark) redis.call('HSET', gone, name, text(limit) .. ':' .. text(now_us) .. mark) end
-- Something is deleted: what was created at `created`, or, with 0, something never seen.
local function deleted(name, created)
  if created > 0 then bury(name, created, '') else bury(name, tomb(name) or 0, '?') end
end
-- A newer thing took the id (fact 5). From events alone, the deletion of the old one is still to come.
local function replaced(name, created, task)
  if not from_sync then bury(name, created, '!' .. task) end
end
-- Whether a deletion is the one that was owed; it is then settled.
local function settles(name)
  local limit, arrival, mark, task = tomb(name)
  if mark ~= '!' or now_us - arrival > OWED_US then return false end
  bury(name, limit, '')
  local _, task_gone = tomb('t' .. task)
  return not task_gone or task_gone < arrival
end
-- Whether what was created at `created` is deleted. Of something never seen the first to come is what was deleted.
local function dead(name, created)
  local limit, arrival, mark = tomb(name)
  if not limit then return false end
  if created == 0 then return mark ~= '!' end
  if created <= limit then return true end
  if mark ~= '?' or created > arrival then return false end
  bury(name, created, '')
  return true
end
-- Whether a deletion was told after `created`.
local function died_since(name, created)
  local limit, arrival, mark = tomb(name)
  return limit and mark ~= '!' and created <= arrival
end
local function revived(name)
  local _, _, mark = tomb(name)
  if mark and (mark ~= '!' or from_sync) then redis.call('HDEL', gone, name) end
end

local seen = {} -- the tasks whose data came with this call: they are looked at when all is done
local function remove(id, task, flags, keep_data)
  count(flags, -1)
  local list = siblings(task)
  local was, left = any_useful(list), {}
  for _, one in ipairs(list) do if one[1] ~= id then left[#left + 1] = one end end
  keep(task, left, was)
  redis.call('HDEL', annotations, id)
  if #left == 0 and not keep_data and not seen[task] then redis.call('HDEL', tasks, task) end
end

-- Fact 23: a new ground truth takes the mark from its siblings, and nobody says so. An event says that the annotation `id`
-- had the mark at `at` (us, 0 unknown); `had`: it is known to have had it already (several come with imports); `new`: it is
-- known not to have had it. Returns whether it has it still.
local function take_mark(task, id, at, had, new)
  local since = number(redis.call('HGET', gone, 'g' .. task))
  if at > since then
    redis.call('HSET', gone, 'g' .. task, text(at))
    if new then touch('g' .. task) end
  end
  if had then return true end
  local mine = at == 0 or at >= since
  local list = siblings(task)
  local was, taken = any_useful(list), false
  for _, one in ipairs(list) do
    if one[1] ~= id and has(one[2], 2) then
      local value = redis.call('HGET', annotations, one[1])
      local c, u, t, f, body_at = header(value)
      if at > 0 and u > at then
        mine = false
      else
        count(f, -1)
        f = f - 2
        count(f, 1)
        one[2] = f
        redis.call('HSET', annotations, one[1], pack(c, u, t, f, string.sub(value, body_at)))
        change(one[1])
        taken = true
      end
    end
  end
  if taken then keep(task, list, was) end
  return mine
end

-- An event changed an annotation since the sync began, and what Label Studio shows has the date of that change but not the
-- mark: its mark was taken afterwards, which nobody says when its sibling was thought to have one already.
local function unmark(id, task, created, updated)
  local old = redis.call('HGET', annotations, id)
  if not old then return end
  local c, u, t, f, at = header(old)
  if not has(f, 2) or c ~= created or u ~= updated or text(t) ~= task then return end
  local list = siblings(task)
  local was = any_useful(list)
  for _, one in ipairs(list) do if one[1] == id then one[2] = f - 2 end end
  keep(task, list, was)
  count(f, -1)
  count(f - 2, 1)
  redis.call('HSET', annotations, id, pack(c, u, t, f - 2, string.sub(old, at)))
  change(id)
end

-- Whether a sync's answer gives an annotation the mark of a task of which an event told since who has it.
local function gains_moved_mark(task, flags, before)
  return has(flags, 2) and not has(before, 2) and is_touched('g' .. task)
end

local function write(id, task, created, updated, flags, body)
  local old = redis.call('HGET', annotations, id)
  local c, u, t, f, at = 0, 0, '', 0, 1
  if old then
    c, u, t, f, at = header(old)
    t = text(t)
  end
  -- What has the id now was made after what the event told of (fact 5), or was changed once more, of which no event came
  -- yet. Whose the mark is by then, events tell.
  if is_touched(id) and not (c > 0 and created > c) then
    local newer = c > 0 and created == c and u > 0 and updated > u
    if not newer or gains_moved_mark(task, flags, f) then
      if not has(flags, 2) then unmark(id, task, created, updated) end
      return
    end
  end
  if is_touched('r' .. id .. ':' .. text(created)) then return end
  -- Nobody saved it since. That it began as a prediction, and whether a person saved it, Label Studio forgets with the
  -- prediction and with the person; its dates stay.
  if from_sync and c > 0 and created == c and updated == u then flags = flags - origin(flags) + origin(f) end
  local born = has(flags, 32)
  if born then flags = flags - 32 end
  local claims = has(flags, 2) and not from_sync
  local predecessor = created > 0 and c > 0 and created < c
  if not from_sync and (predecessor or dead('a' .. id, created)) then
    stale = stale + 1
    if claims then take_mark(task, id, updated) end
    return
  end
  local same, dated = false, updated
  if old and (c == created or c == 0 or created == 0) then
    same = f == flags and t == task and string.sub(old, at) == body
    if not from_sync and updated > 0 and updated <= u then
      if not same or updated < u then stale = stale + 1 end
      if claims and updated < u and not has(f, 2) then take_mark(task, id, updated) end
      return
    end
    if created == 0 then created = c end
    if updated == 0 then updated = u end
  elseif old then
    replaced('a' .. id, c, t)
    remove(id, t, f, t == task)
    old = nil
  end
  if (claims and not take_mark(task, id, dated, old and has(f, 2), born or (old and not has(f, 2)))) or gains_moved_mark(task, flags, old and f or 0) then
    flags = flags - 2
    same = old and f == flags and t == task and string.sub(old, at) == body
  end
  if same then
    if u ~= updated or c ~= created then
      redis.call('HSET', annotations, id, pack(created, updated, task, flags, body))
      touch(id)
    end
    return
  end
  if old and t ~= task then
    remove(id, t, f)
  elseif old then
    count(f, -1)
  end
  local list = siblings(task)
  local was, found = any_useful(list), false
  for _, one in ipairs(list) do
    if one[1] == id then one[2] = flags; found = true end
  end
  if not found then list[#list + 1] = {id, flags} end
  keep(task, list, was)
  count(flags, 1)
  redis.call('HSET', annotations, id, pack(created, updated, task, flags, body))
  revived('a' .. id)
  if redis.call('HEXISTS', tasks, task) == 0 then set('dataless', ARGV[1]) end
  change(id)
end

local function delete(id)
  if settles('a' .. id) then stale = stale + 1 return end
  local old = redis.call('HGET', annotations, id)
  if not old then
    if tomb('a' .. id) then stale = stale + 1 end
    deleted('a' .. id, 0)
    touch(id)
    return
  end
  local created, _, task, flags = header(old)
  remove(id, text(task), flags)
  deleted('a' .. id, created)
  change(id)
end

-- Removes the annotations last seen under a task, but for those in `but`, and for those made after `before` (us), which are
-- the successor's. Those that go with their task get no tombstone of their own: they may have been moved to another task,
-- which nobody says (fact 23).
local function cascade(task, but, before)
  for _, one in ipairs(siblings(task)) do
    local id = one[1]
    if not (but and but[id]) and not is_touched(id) then
      local created = header(redis.call('HGET', annotations, id))
      if not before or created < before then
        if but then deleted('a' .. id, created) end
        remove(id, task, one[2], true)
        change(id, true)
        touch('r' .. id .. ':' .. text(created))
      end
    end
  end
end

local function delete_task(id)
  if settles('t' .. id) then stale = stale + 1 return end
  local old = redis.call('HGET', tasks, id)
  cascade(id)
  redis.call('HDEL', tasks, id)
  deleted('t' .. id, old and struct.unpack('>dd', old) or 0)
  touch('t' .. id)
end

-- Returns whether the task is alive.
local function write_task(id, created, updated, body)
  local old = redis.call('HGET', tasks, id)
  local c, u, at = 0, 0, 1
  if old then c, u, at = struct.unpack('>dd', old) end
  local successor = c > 0 and created > c
  if is_touched('t' .. id) and not successor then
    -- Where an event told of the successor, the answer is from before: what it shows went with the predecessor.
    if old then return created == 0 or created >= c end
    -- An event deleted it, or it only went with its last annotation; others of it may never have been told of. What was
    -- known of it does not tell which: it may have been another that had the id, whose end nobody said.
    if died_since('t' .. id, created) then return false end
  end
  if not from_sync and (created > 0 and created < c or dead('t' .. id, created)) then return false end
  if successor then
    replaced('t' .. id, c, '')
    cascade(id, nil, created)
  elseif old then
    if string.sub(old, at) == body or (not from_sync and updated < u) then return true end
    for _, one in ipairs(siblings(id)) do if not is_touched(one[1]) then change(one[1], true) end end
    if created == 0 then created = c end
  end
  redis.call('HSET', tasks, id, struct.pack('>dd', created, updated) .. body)
  revived('t' .. id)
  touch('t' .. id)
  return true
end

-- Whether an annotation came for a task that is deleted, as far as the annotation's own date tells.
local function task_is_dead(task, created)
  if redis.call('HEXISTS', tasks, task) == 1 then return false end
  if from_sync and not is_touched('t' .. task) then return false end
  return died_since('t' .. task, created)
end

-- An event said that an annotation has the ground truth mark, and it was thought to have it already; a sync's answer from
-- before shows it without: so the event gave it the mark, and took it from the siblings. One that has it since took it back.
local function find_new_marks(at, how_many)
  for i = at, at + 7 * (how_many - 1), 7 do
    local id, task = ARGV[i + 1], ARGV[i + 2]
    if ARGV[i] == 'w' and not has(tonumber(ARGV[i + 5]), 2) and is_touched(id) then
      local old = redis.call('HGET', annotations, id)
      if old then
        local c, u, t, f = header(old)
        if has(f, 2) and c == tonumber(ARGV[i + 3]) and u > tonumber(ARGV[i + 4]) and text(t) == task then
          redis.call('SADD', touched, 'g' .. task)
          if not take_mark(task, id, u) then unmark(id, task, c, u) end
        end
      end
    end
  end
end

local function operate(at, how_many)
  if from_sync then find_new_marks(at, how_many) end
  local dead_tasks = {}
  for i = at, at + 7 * (how_many - 1), 7 do
    local kind, id = ARGV[i], ARGV[i + 1]
    if kind == 'w' then
      local task, created = ARGV[i + 2], tonumber(ARGV[i + 3])
      if dead_tasks[task] or task_is_dead(task, created) then
        stale = stale + 1
      else
        write(id, task, created, tonumber(ARGV[i + 4]), tonumber(ARGV[i + 5]), ARGV[i + 6])
      end
    elseif kind == 'k' then
      seen[id] = true
      if not write_task(id, tonumber(ARGV[i + 2]), tonumber(ARGV[i + 3]), ARGV[i + 6]) then dead_tasks[id] = true end
    elseif kind == 'd' then
      delete(id)
    elseif kind == 'o' then
      seen[id] = true
      local but = {}
      for one in string.gmatch(ARGV[i + 2], '%d+') do but[one] = true end
      cascade(id, but)
    else
      delete_task(id)
    end
  end
  -- A task is kept for its annotations only.
  for id in pairs(seen) do
    if redis.call('HEXISTS', of_task, id) == 0 then redis.call('HDEL', tasks, id) end
  end
end

local COUNTS = {'total', 'useful', 'gt', 'skipped', 'trainable', 'tasks', 'bulk'}
local function store_counts()
  if seq == before then return end
  set('seq', text(seq))
  local counts = {total, useful, gt, skipped, trainable, task_count, bulk}
  for i, at in ipairs({3, 4, 5, 6, 7, 8, 13}) do
    if counts[i] ~= number(known[at]) then set(COUNTS[i], text(counts[i])) end
  end
  set('last_change', ARGV[1])
  if redis.call('HEXISTS', meta_key, 'first_change') == 0 then set('first_change', ARGV[1]) end
end

-- What Label Studio counts against what is stored here. `reported`: the eight counters, in the order of the reference page.
local function compare(reported)
  local derived, drift, differs = {total, task_count, useful, gt, skipped}, {}, false
  for i = 1, 5 do
    local difference = tonumber(reported[i + 3]) - derived[i]
    drift[i] = text(difference)
    if difference ~= 0 then differs = true end
  end
  if differs then
    if redis.call('HEXISTS', meta_key, 'drift_since') == 0 then set('drift_since', ARGV[1]) end
    set('drift', table.concat(drift, ','))
  else
    redis.call('HDEL', meta_key, 'drift_since', 'drift')
  end
  return differs
end
