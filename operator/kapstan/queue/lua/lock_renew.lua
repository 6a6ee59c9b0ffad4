#!lua flags=allow-oom
-- lock_renew: a client lives. What it holds and waits for stays as long as it does.
-- KEYS: prefix
-- ARGV: client about all
--   all: 1: prolong everything that it has, too
-- Reply: format, its beat
-- include: now
-- include: locks
local lc, lh = P .. 'lc:' .. ARGV[1], P .. 'lh:' .. ARGV[1]
call('HSET', lc, 'a', ARGV[2])
call('EXPIRE', lc, STAYS)
if ARGV[3] == '1' then
  call('EXPIRE', lh, STAYS)
  for _, each in ipairs(call('SMEMBERS', lh)) do
    for _, kind in ipairs({'lk:', 'lw:', 'll:'}) do call('EXPIRE', P .. kind .. sub(each, 1, DIGEST), STAYS) end
  end
end
local beat = redis.pcall('HINCRBY', lc, 'n', 1)
if type(beat) ~= 'number' then -- another program wrote over it; a number that was not there before is a beat, too
  beat = time[1]
  call('HSET', lc, 'n', beat)
end
return {'1', beat}
