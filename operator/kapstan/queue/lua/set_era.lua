#!lua flags=allow-oom
-- set_era: let one start of the server mint tokens of a new era, and wake the lanes that wait for it.
-- KEYS: prefix
-- ARGV: era run_id
--   era: 6 digits, from the register outside Redis; run_id: the start of the server that it was raised for
-- Reply: format, OK | OLD | OTHER (this is another start), the era in force, run_id of this start
-- Only a larger era is accepted: tokens never repeat, whatever state the server came back with. And only one for each
-- start: a second supervisor's would turn claims that were made since the first one into old ones. A call that is
-- repeated, or late, and meets another start than it was meant for changes nothing.
-- include: era
local stored = call('HGET', P .. 'm', 'era') or '000000'
if not find(stored, '^%d%d%d%d%d%d$') then stored = '000000' end -- another program wrote it
local run_id = string.match(call('INFO', 'server'), 'run_id:(%x+)')
if run_id ~= ARGV[2] then return {'1', 'OTHER', stored, run_id} end
if era() then return {'1', 'OK', stored, run_id} end
if ARGV[1] <= stored then return {'1', 'OLD', stored, run_id} end
call('HSET', P .. 'm', 'era', ARGV[1], 'run_id', run_id)
call('PUBLISH', P .. 'b', 'era')
return {'1', 'OK', ARGV[1], run_id}
