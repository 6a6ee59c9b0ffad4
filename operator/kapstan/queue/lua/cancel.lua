#!lua flags=allow-oom
-- cancel: end a ready or delayed run at once; tell the supervisor of a running one. One that is in doubt (see there) is
-- marked, and ended by the worker that claims it: r is answered, too.
-- KEYS: prefix
-- ARGV: run_id ttl
-- Reply: format, the state before ('' if there is no such run)
-- include: record
-- include: doubt
-- include: whole
-- include: holder
-- include: route
-- include: index
-- include: settle
-- include: expiry
-- include: finish
-- include: withdraw
local rid = ARGV[1]
local record = call('GET', P .. 't:' .. rid)
if not record then return {'1', ''} end
if not is_whole(record) then
  finish(rid, whole(rid, record, ''), 'x', '00000000000000', '', ARGV[2])
  settle()
  return {'1', 'x'}
end
local state = state_of(record)
local session
if state == 'q' or state == 'r' then session = holder_of(rid) end
if session then
  state = 'r'
  call('SETRANGE', P .. 't:' .. rid, 30, sub(with_flags(record, CANCEL), 31, 31))
  local asked = call('HGET', P .. 'w:' .. session, '~') or ''
  if not find(asked, rid, 1, true) then call('HSET', P .. 'w:' .. session, '~', asked .. rid) end
  call('PUBLISH', P .. 'S:' .. session, 'c' .. rid)
elseif (state == 'q' or state == 'd') and in_doubt(record) then
  call('SETRANGE', P .. 't:' .. rid, 30, sub(with_flags(record, CANCEL), 31, 31))
  state = 'r'
elseif state == 'q' or state == 'd' then
  withdraw(rid, record)
  finish(rid, record, 'k', token_of(record), '', ARGV[2])
end
settle()
return {'1', state}
