#!lua flags=allow-oom
-- cancel: end a ready or delayed run at once; tell the supervisor of a running one.
-- KEYS: prefix
-- ARGV: run_id ttl
-- Reply: format, the state before ('' if there is no such run)
-- A cancelled run stays in its ready list, counted as stale, until a claim comes by and drops it; the first and the last
-- of the list leave it at once.
-- include: record
-- include: whole
-- include: holder
-- include: route
-- include: index
-- include: settle
-- include: expiry
-- include: finish
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
  call('SETRANGE', P .. 't:' .. rid, 30, bit.bor(sub(record, 31, 31), CANCEL))
  local asked = call('HGET', P .. 'w:' .. session, '~') or ''
  if not find(asked, rid, 1, true) then call('HSET', P .. 'w:' .. session, '~', asked .. rid) end
  call('PUBLISH', P .. 'S:' .. session, 'c' .. rid)
elseif state == 'q' or state == 'd' then
  if state == 'd' then
    call('ZREM', P .. 'd', rid)
    count('d:', (route_of(record)), -1)
  end
  finish(rid, record, 'k', token_of(record), '', ARGV[2])
  if state == 'q' then
    local route, _, place = route_of(record)
    local list = P .. 'q:' .. place
    if place ~= route then count('l:', route, -1) end
    if call('LINDEX', list, 0) == rid then
      call('LPOP', list)
    elseif call('LINDEX', list, -1) == rid then
      call('RPOP', list)
    else
      count('k:', place, 1)
    end
  end
end
settle()
return {'1', state}
