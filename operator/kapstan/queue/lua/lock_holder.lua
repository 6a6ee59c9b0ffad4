#!lua flags=no-writes
-- lock_holder: who holds a lock.
-- KEYS: prefix
-- ARGV: digest
-- Reply: format, nothing; or holder, token, since (Unix ms), about its process, and how many wait
-- include: now
local hold = call('HMGET', P .. 'lk:' .. ARGV[1], 'h', 't', 's', 'c', 'u')
if not hold[1] or (hold[5] ~= '' and now() >= (tonumber(hold[5]) or 0)) then return {'1', {}} end
if not (find(hold[2] or '', '^%d+$') and find(hold[3] or '', '^%d+$') and hold[4]) then return {'1', {}} end -- no record
local about = call('HGET', P .. 'lc:' .. hold[4], 'a') or ''
return {'1', {hold[1], hold[2], hold[3], about, call('ZCARD', P .. 'lw:' .. ARGV[1])}}
