-- What every transition shares; the loader puts it in front of each script.
--
-- KEYS, the same for every script (P = one project's prefix):
--   1 P:waiting   hash    the run that waits: id, due, not_before, click, enqueued ('' = not with RQ), enqueues
--   2 P:running   hash    the run that trains: id, token, nonce, worker, expires, cancel
--   3 P:history   list    ended runs as JSON, newest first, bounded
--   4 P:token     string  the fencing counter
--   5 P:run-seq   string  the number of the newest run
--   6 P:paused    string  why nothing starts by itself; absent = not paused
--   7 P:runs      hash    failures in a row, and id, status and times of the run that ended last
--   8 P:starts    zset    id of a run that nobody clicked for -> its first start, one day back
--   9 P:totals    hash    how many runs ended so, and their seconds: 'runs|<status>', 'seconds|<status>'
--   10 mlb:due    zset    uid -> when the clock must look again
-- ARGV, the same for every script: 1 uid, 2 prefix of the run records (mlb:run:), 3 now; a script's own begin at 4.
-- Records are reached through an id that the script itself reads, so they are not among the KEYS.

local WAITING, RUNNING, HISTORY, TOKEN, SEQ, PAUSED, SUMMARY, STARTS, TOTALS, DUE =
    KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7], KEYS[8], KEYS[9], KEYS[10]
local UID, RECORDS, NOW = ARGV[1], ARGV[2], ARGV[3]
local HISTORY_LENGTH = 200
local KEPT_SECONDS = 30 * 24 * 3600
local MESSAGES, MESSAGES_KEPT_SECONDS = 20, 24 * 3600

local function record(id)
    return RECORDS .. id
end

-- The clock looks at this project at `time` at the latest.
local function look_at(time)
    redis.call('ZADD', DUE, 'LT', time, UID)
end

-- Does this lease still hold the project?
local function holds(id, token, nonce)
    local running = redis.call('HMGET', RUNNING, 'id', 'token', 'nonce')
    return running[1] == id and running[2] == token and running[3] == nonce
end

-- Its holder says so itself: whoever watches over it has nothing to do any more.
local function release(id, nonce)
    redis.call('HSET', record(id), 'released', nonce)
end

-- Write a run's end: its record, the history, the summary. The caller removes it from waiting or running.
local function close(id, status, ending, failure, traceback, details)
    redis.call('HSET', record(id), 'status', status, 'ended', NOW, 'updated', NOW, 'ending', ending,
        'error', failure, 'traceback', traceback, 'details', details)
    redis.call('EXPIRE', record(id), KEPT_SECONDS)
    local fields = redis.call('HGETALL', record(id))
    local entry = {}
    for i = 1, #fields, 2 do
        if fields[i] ~= 'traceback' and fields[i] ~= 'nonce' and fields[i] ~= 'released' then
            entry[fields[i]] = fields[i + 1]
        end
    end
    redis.call('LPUSH', HISTORY, cjson.encode(entry))
    redis.call('LTRIM', HISTORY, 0, HISTORY_LENGTH - 1)
    redis.call('HSET', SUMMARY, 'last_id', id, 'last_status', status,
        'last_started', entry.started or '', 'last_ended', NOW)
    redis.call('HINCRBY', TOTALS, 'runs|' .. status, 1)
    if entry.started then
        redis.call('HINCRBYFLOAT', TOTALS, 'seconds|' .. status, math.max(0, tonumber(NOW) - tonumber(entry.started)))
    end
    look_at(NOW)
end

-- A run that trained goes back to waiting. A run that waits behind it joins it, so that at most one waits.
local function requeue(id, not_before, message)
    local other = redis.call('HMGET', WAITING, 'id', 'due', 'click')
    local click = redis.call('HGET', record(id), 'click')
    if other[1] then
        local behind = record(other[1])
        if other[3] == '1' then
            not_before = NOW
            if click ~= '1' then
                click = '1'
                local asked = redis.call('HMGET', behind, 'trigger', 'reason')
                redis.call('HSET', record(id), 'click', '1', 'trigger', asked[1], 'reason', asked[2])
            end
        end
        local joined = tonumber(redis.call('HGET', behind, 'joined') or '0') + 1
        redis.call('HINCRBY', record(id), 'joined', joined)
        redis.call('HSET', behind, 'into', id, 'status', 'cancelled', 'ended', NOW, 'updated', NOW,
            'ending', 'joined run ' .. id)
        redis.call('EXPIRE', behind, KEPT_SECONDS)
    end
    local enqueues = redis.call('HGET', record(id), 'enqueues') or '0'
    redis.call('DEL', WAITING)
    redis.call('HSET', WAITING, 'id', id, 'due', NOW, 'not_before', not_before, 'click', click or '0',
        'enqueued', '', 'enqueues', enqueues)
    redis.call('HSET', record(id), 'status', 'queued', 'phase', '', 'fraction', '0', 'message', message,
        'due', not_before, 'enqueued', '', 'updated', NOW)
    look_at(not_before)
end
