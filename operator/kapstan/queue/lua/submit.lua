#!lua
-- submit: accept one run and hand it to an idle lane if there is one.
-- KEYS: prefix
-- ARGV: run_id delay_ms tail
--   tail: the record from its 27th character on (crashes ... envelope)
-- Reply: format, OK | DUP | CONFLICT, state
-- Needs no era: what it accepts waits for the first claim of the new one.
-- include: route
-- include: index
local rid, delay, key = ARGV[1], ARGV[2] ~= '0', P .. 't:' .. ARGV[1]
local record = (delay and '1d' or '1q') .. '00000000000000' .. since .. ARGV[3]
if call('SETNX', key, record) == 0 then
  -- include: record
  -- include: repeated
  local state, same = repeated(call('GET', key), record)
  return {'1', same and 'DUP' or 'CONFLICT', state}
end
local route = route_of(record)
index('i', route, {rid})
tally('s', route, 1)
if delay then
  -- include: now
  -- include: settle
  -- include: delay
  delay_until(rid, route, now() + ARGV[2])
  settle()
  return {'1', 'OK', 'd'}
end
call('RPUSH', P .. 'q:' .. route, rid)
if call('EXISTS', P .. 'idle:' .. route) == 1 then
  -- include: now
  -- include: record
  -- include: era
  -- include: settle
  -- include: claim
  -- include: offer
  offer(route)
  settle()
end
return {'1', 'OK', 'q'}
