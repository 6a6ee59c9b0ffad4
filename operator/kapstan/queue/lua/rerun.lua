#!lua
-- rerun: a run that failed, crashed or was cancelled runs once more because a person wants it to, with the arguments that
-- were kept; one that was parked goes on, because somebody has decided what became of its effect.
-- KEYS: prefix
-- ARGV: run_id ttl
-- Reply: format, OK | NONE (no such run) | NOT (its state allows it not) | GONE (its arguments, or its record cannot be
--   read), the state before
-- Its token is kept, so that the next claim mints a greater one; attempts and crashes count from the beginning.
-- include: now
-- include: record
-- include: whole
-- include: holder
-- include: route
-- include: era
-- include: paused
-- include: index
-- include: settle
-- include: expiry
-- include: finish
-- include: deadline
stay = ARGV[2]
-- include: claim
-- include: offer
local rid, key = ARGV[1], P .. 't:' .. ARGV[1]
local record = call('MGET', key)[1]
if not record and call('EXISTS', key) == 0 then return {'1', 'NONE', ''} end
if not record or not is_whole(record) then return {'1', 'GONE', 'x'} end
local state = state_now(rid, record)
if not find('fxkp', state, 1, true) then return {'1', 'NOT', state} end
local route, to, place = route_of(record)
-- A parked run has its arguments still, and goes on with the count of its attempts. One whose record was set aside (see
-- whole) has none.
local arguments = state == 'p' and sub(record, to + 1) or call('MGET', P .. 'args:' .. rid)[1]
if not arguments or arguments == '' then return {'1', 'GONE', state} end
call('DEL', P .. 'args:' .. rid)
local meta = find(place, '\31', 1, true)
if meta then
  to = to - #place + meta - 1
  place = sub(place, 1, meta - 1)
  if #place < #route then route = place end
end
-- What it did is known by its register alone; was it to be cancelled, it still is.
local kept = bit.band(byte(record, 31) - 48, state == 'p' and CANCEL + STORED or STORED)
local flags = string.char(48 + kept + (state == 'p' and byte(record, 32) == 97 and 16 or 0))
call('SET', key, '1q' .. token_of(record) .. since .. '0' .. (state == 'p' and sub(record, 28, 30) or '001') .. flags .. sub(record, 32, to - 1) .. '\0' .. arguments)
local first = false
-- include: enlist
tally('s', route, 1)
offer(route)
settle()
return {'1', 'OK', state}
