#!lua flags=allow-oom
-- lock_end: a client's process has ended: what it holds is free, and it leaves every line.
-- KEYS: prefix
-- ARGV: client
-- Reply: format, OK
-- include: now
-- include: locks
end_client(ARGV[1])
return {'1', 'OK'}
