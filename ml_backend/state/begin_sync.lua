-- A sync begins, or goes on after a crash. Its token shuts out whoever held the one before.
--
-- KEYS  1 P:meta  2 P:touched
-- ARGV  1 now (s)  2 new token  3 kind ('complete', 'incremental'), or '' to go on  4 Label Studio's time (us) or ''
-- Returns {kind, began (s), cursor, Label Studio's time (us) or ''}, or {} when there is nothing to go on with.

if ARGV[3] == '' then
  if redis.call('HEXISTS', KEYS[1], 'syncing') == 0 then return {} end
  redis.call('HSET', KEYS[1], 'syncing', ARGV[2])
else
  redis.call('DEL', KEYS[2])
  redis.call('HSET', KEYS[1], 'syncing', ARGV[2], 'sync_kind', ARGV[3], 'sync_began', ARGV[1], 'sync_cursor', '0',
    'sync_from', ARGV[4])
end
return redis.call('HMGET', KEYS[1], 'sync_kind', 'sync_began', 'sync_cursor', 'sync_from')
