#!lua flags=allow-oom
-- retry: free a claim and let the run start again after a delay, as its next attempt or (counted 0) as the same one.
-- KEYS: prefix
-- ARGV: session run_id token delay_ms ttl counted repeated
--   repeated: 1 if an earlier call with these arguments may have been carried out
-- Reply: format, OK | LOST | ERA
-- include: now
-- include: record
-- include: doubt
-- include: whole
-- include: route
-- include: era
-- include: paused
-- include: index
-- include: settle
-- include: expiry
-- include: finish
-- include: deadline
-- include: claim
-- include: offer
-- include: delay
local session, rid, token, delay = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
stay = ARGV[5]
if not era() then return {'1', 'ERA'} end
local w = P .. 'w:' .. session
local claim = call('HGET', w, rid)
local record = call('GET', P .. 't:' .. rid)
if not record or not claim or sub(claim, 1, 14) ~= token then
  local mine = record and ARGV[7] == '1' and token_of(record) == token and find('qdk', state_of(record), 1, true)
  return {'1', mine and 'OK' or 'LOST'}
end
record = whole(rid, record, '')
local route, _, place = route_of(record)
count('r:', route, -1)
local slots, routes = find(claim, '\30', 25, true), {}
if slots then
  slots = sub(claim, slots)
  -- include: free
end
if to_cancel(record) and (ARGV[6] ~= '0' or not in_doubt(record)) or route == '' then -- '': another program wrote over it
  finish(rid, record, route == '' and 'x' or 'k', token, '', stay, session, sub(claim, 15, 24))
  call('HDEL', w, rid)
elseif flagged(record, LATE) and ARGV[6] == '0' then
  lapse(rid, sub(record, 1, 2) .. token .. sub(record, 17))
  call('HDEL', w, rid)
else
  if ARGV[6] ~= '0' then record = begun(rid, record, true) end
  local attempt = format('%03d', math.min(sub(record, 28, 30) + ARGV[6], 999))
  call('SETRANGE', P .. 't:' .. rid, 1, (delay > 0 and 'd' or 'q') .. token .. since .. sub(record, 27, 27) .. attempt .. sub(record, 31, 31))
  if delay > 0 then
    delay_until(rid, route, now() + delay)
    call('HDEL', w, rid) -- after what may fail where another program wrote to d or the list: nothing is lost then
  else
    local first = false
    -- include: enlist
    call('HDEL', w, rid)
    routes[route] = true
  end
end
offer_all(routes)
settle()
return {'1', 'OK'}
