#!lua
-- submit: accept one run and hand it to an idle lane if there is one.
-- KEYS: prefix
-- ARGV: run_id place tail ttl wishes...
--   place: of its ready list, see route_of; tail: the record from its 27th character on (crashes ... envelope)
--   ttl: seconds for which ended records stay; wishes: none, which is the rule, or three: delay_ms; expires_ms: '', or
--   how soon it must begin (its flags say so, too); after: run ids of those that must have completed before
-- Reply: one string: format, state, then as in submit_many '0' new, '1' duplicate, '!' conflict. A list would cost more.
-- Needs no era: what it accepts waits for the first claim of the new one.
local rid, place, key = ARGV[1], ARGV[2], T .. ARGV[1]
local delay_ms, expires_ms, after = unpack(ARGV, 5)
local delay = delay_ms and delay_ms ~= '0'
local bars = find(place, '||', 1, true)
local route = bars and sub(place, 1, bars - 1) or place
local record = (delay and '1d00000000000000' or '1q00000000000000') .. since .. ARGV[3]
if call('SETNX', key, record) == 0 then
  -- include: record
  -- include: whole
  -- include: holder
  -- include: repeated
  local state, same = repeated(rid, call('MGET', key)[1], record)
  return '1' .. state .. (same and '1' or '!')
end
-- As index() does, which is made only for the first run of an hour: making a function costs as much as a command.
local entry = struct.pack('>I3', moment % 3600000) .. rid
local listed = redis.pcall('RPUSHX', P .. 'i:' .. format('%d:', moment / 3600000) .. route, entry)
if type(listed) ~= 'number' or listed == 0 then
  -- include: index
  index('i', route, {rid})
end
if expires_ms and expires_ms ~= '' then
  -- include: now
  -- include: sure
  -- include: expires
  set_deadline({rid}, expires_ms)
end
if after and after ~= '' then
  -- include: now
  -- include: settle
  -- include: sure
  -- include: after
  local done, waits = pcall(wait_for, {rid}, after, delay and format('%.0f', now() + delay_ms))
  if not done then -- as below
    call('DEL', key)
    error(waits)
  elseif waits then
    if not delay then call('SETRANGE', key, 1, 'd') end
    count('d:', route, 1)
    settle()
    return '1d0'
  end
end
if delay then
  -- include: now
  -- include: settle
  -- include: delay
  local done, reason = pcall(delay_until, rid, route, now() + delay_ms)
  if not done then -- another program wrote to d: what was not accepted must not stay
    call('DEL', key)
    error(reason)
  end
  settle()
  return '1d0'
end
local idle = call('EXISTS', P .. 'idle:' .. route) == 1
local in_list = false
if idle and not bars and byte(record, 31) == 48 then -- no flag, so no deadline either
  -- include: now
  -- include: era
  -- include: paused
  -- include: counts
  -- include: hold
  -- include: give
  -- Where no run waits before it, it goes to a lane without standing in the list.
  local function given()
    if any_turns or any_limits or paused(route) or call('EXISTS', P .. 'q:' .. route) == 1 then return false end
    local session, lane = idle_lane(route)
    if not session then return false end
    in_list = not give(session, lane, route, {rid}, {record})
    return not in_list
  end
  local sound, done = pcall(function() return era() and given() end) -- else as below
  if sound and done then
    settle()
    return '1q0'
  end
end
local queued = in_list and 1 or redis.pcall('RPUSH', P .. 'q:' .. place, rid)
if type(queued) ~= 'number' then
  call('DEL', key)
  return queued
end
if bars or idle then
  -- include: now
  -- include: era
  -- include: paused
  -- include: counts
  stay = ARGV[4]
  -- include: claim
  -- include: offer
  if bars then
    count('l:', route, 1)
    -- include: line_up
  end
  offer(route)
  settle()
end
return '1q0'
