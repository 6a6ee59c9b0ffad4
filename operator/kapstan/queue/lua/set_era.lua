#!lua flags=allow-oom
-- set_era: let this start of the server mint tokens of a new era, and wake the lanes that wait for it.
-- KEYS: prefix
-- ARGV: era lease_ms
--   era: 6 digits, from the register outside Redis
-- Reply: format, OK | OLD, the era in force
-- Only a larger era is accepted: tokens never repeat, whatever state the server came back with. And only one for each
-- start: a second supervisor's would turn claims that were made since the first one into old ones.
-- Every session is given a fresh lease: nobody could renew while the server was away, so silence says nothing yet.
-- include: now
-- include: era
local stored = call('HGET', P .. 'm', 'era') or '000000'
if era() then return {'1', 'OK', stored} end
if ARGV[1] <= stored then return {'1', 'OLD', stored} end
local run_id = string.match(call('INFO', 'server'), 'run_id:(%x+)')
call('HSET', P .. 'm', 'era', ARGV[1], 'run_id', run_id)
for _, session in ipairs(call('ZRANGE', P .. 's', 0, 9999)) do
  call('ZADD', P .. 's', 'GT', now() + ARGV[2], session)
end
call('PUBLISH', P .. 'b', 'era')
return {'1', 'OK', ARGV[1]}
