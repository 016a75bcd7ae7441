-- How far the run is, for people.
-- ARGV: 4 run id, 5 token, 6 nonce, 7 phase, 8 fraction, 9 message
-- Returns held (0 or 1); 0 wrote nothing.
if not holds(ARGV[4], ARGV[5], ARGV[6]) then
    return 0
end
redis.call('HSET', record(ARGV[4]), 'phase', ARGV[7], 'fraction', ARGV[8], 'message', ARGV[9], 'updated', NOW)
return 1
