#!lua
-- rerun: a person has a run that failed, crashed or was cancelled run once more, with the arguments that were kept.
-- KEYS: prefix
-- ARGV: run_id
-- Reply: format, OK | NONE (no such run) | NOT (its state allows it not) | GONE (its arguments), the state before
-- Its token is kept, so that the next claim mints a greater one; attempts and crashes count from the beginning.
-- include: now
-- include: record
-- include: holder
-- include: route
-- include: era
-- include: paused
-- include: index
-- include: settle
-- include: claim
-- include: offer
local rid, key = ARGV[1], P .. 't:' .. ARGV[1]
local record = call('GET', key)
if not record then return {'1', 'NONE', ''} end
local state = state_now(rid, record)
if not find('fxk', state, 1, true) then return {'1', 'NOT', state} end
local arguments = call('GETDEL', P .. 'args:' .. rid)
if not arguments then return {'1', 'GONE', state} end
local route, to = route_of(record)
local meta = find(route, '\31', 1, true)
if meta then
  to = to - #route + meta - 1
  route = sub(route, 1, meta - 1)
end
call('SET', key, '1q' .. token_of(record) .. since .. '00010' .. sub(record, 32, to - 1) .. '\0' .. arguments)
call('RPUSH', P .. 'q:' .. route, rid)
tally('s', route, 1)
offer(route)
settle()
return {'1', 'OK', state}
