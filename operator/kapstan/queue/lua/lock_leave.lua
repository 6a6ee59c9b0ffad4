#!lua flags=allow-oom
-- lock_leave: a wait is given up: it leaves the line; what was granted to it is free.
-- KEYS: prefix
-- ARGV: digest client generation number
-- Reply: format, OK, or LATE if the client has called again on newer connections
-- include: now
-- include: locks
if call('EXISTS', P .. 'lc:' .. ARGV[2]) == 1 and not in_time(ARGV[2], ARGV[3]) then return {'1', 'LATE'} end
leave(ARGV[1], ARGV[2], ARGV[4])
return {'1', 'OK'}
