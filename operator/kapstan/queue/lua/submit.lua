#!lua
-- submit: accept one run and hand it to a parked lane if there is one.
-- KEYS: prefix
-- ARGV: run_id delay_ms tail
--   tail: the record from its 27th character on (crashes ... envelope)
-- Reply: format, OK | DUP | CONFLICT, state
-- Needs no era: what it accepts waits for the first claim of the new one.
local rid, delay, tail = ARGV[1], tonumber(ARGV[2]), ARGV[3]
local record = (delay > 0 and '1d' or '1q') .. '00000000000000' .. since .. tail
if not call('SET', P .. 't:' .. rid, record, 'NX') then
  local there = call('GET', P .. 't:' .. rid)
  local same = sub(there, 41, find(there, '\0', 41, true)) == sub(record, 41, find(record, '\0', 41, true))
  return {'1', same and 'DUP' or 'CONFLICT', state_of(there)}
end
local route = route_of(record)
if delay > 0 then
  -- include: settle
  -- include: delay
  delay_until(rid, route, now() + delay)
  settle()
else
  call('RPUSH', P .. 'q:' .. route, rid)
  if call('EXISTS', P .. 'idle:' .. route) == 1 then
    -- include: era
    -- include: settle
    -- include: claim
    -- include: offer
    offer(route)
    settle()
  end
end
return {'1', 'OK', state_of(record)}
