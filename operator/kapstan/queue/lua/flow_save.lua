#!lua
-- flow_save: replace the summary of a flow run, index it, and tell whoever watches.
-- KEYS: prefix
-- ARGV: run_id summary ttl keep
--   keep: how many runs the index holds; the oldest fall out
-- Reply: format, OK
-- include: now
call('SET', P .. 'f:' .. ARGV[1], ARGV[2], 'EX', ARGV[3])
call('ZADD', P .. 'fi', 'NX', now(), ARGV[1])
call('ZREMRANGEBYSCORE', P .. 'fi', '-inf', now() - ARGV[3] * 1000)
call('ZREMRANGEBYRANK', P .. 'fi', 0, -1 - ARGV[4])
call('PUBLISH', P .. 'runs', ARGV[1])
return {'1', 'OK'}
