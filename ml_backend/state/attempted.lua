-- A run that had taken a snapshot ended. If it trained, the changes that it held are no longer changes.
--
-- KEYS  1 P:meta  2 P:changed  3 <prefix>due  4 P:trained-config
-- ARGV  1 uid  2 now (s)  3 seq of the snapshot  4 seconds it took  5 size it was trained on, or ''  6 hash of its label config
--       7 when the run began (s)  8 its label config
redis.call('HSET', KEYS[1], 'attempted_seq', ARGV[3], 'attempted_config', ARGV[6], 'last_seconds', ARGV[4])
redis.call('HDEL', KEYS[1], 'threshold_at')
if ARGV[5] ~= '' then
  redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', ARGV[3])
  redis.call('HSET', KEYS[1], 'trained_size', ARGV[5], 'trained_at', ARGV[2], 'trained_config', ARGV[6])
  redis.call('SET', KEYS[4], ARGV[8])
  redis.call('HDEL', KEYS[1], 'outdated', 'compared_config')
  if redis.call('ZCARD', KEYS[2]) == 0 then
    redis.call('HDEL', KEYS[1], 'first_change')
  else
    -- What is left changed while it ran; when exactly is not kept.
    redis.call('HSET', KEYS[1], 'first_change', ARGV[7])
  end
end
redis.call('ZADD', KEYS[3], ARGV[2], ARGV[1])
return 1
