#!lua
-- replace: accept one run under a key of its route. A run of that key that still waits gets these arguments, time and
-- wishes instead of its own; one that a session holds, or that has ended, is left alone, and this one is new.
-- KEYS: prefix
-- ARGV: digest nonce run_id place tail ttl delay_ms expires_ms after
--   run_id .. after: as in submit, with its wishes; the arguments are signed for that run
--   digest: of route and key; nonce: 8 characters of this call, so that its repetition is known, though up to seven others
--   came meanwhile
-- Reply: format, OK | REPLACED | DUP | OTHER (the run that waits under the key is that one) | TAKEN (this run does not
--   wait any more: give another id) | CONFLICT (the id is in use), state, run id
-- include: now
-- include: record
-- include: doubt
-- include: holder
-- include: whole
-- include: route
-- include: era
-- include: paused
-- include: index
-- include: settle
-- include: expiry
-- include: finish
-- include: deadline
-- include: sure
-- include: expires
-- include: after
-- include: withdraw
-- include: claim
-- include: offer
-- include: delay
local rid, place, rk = ARGV[3], ARGV[4], P .. 'rk:' .. ARGV[1]
local bars = find(place, '||', 1, true)
local route = bars and sub(place, 1, bars - 1) or place
stay = ARGV[6]
local stored = sure('GET', rk) or ''
local current = sub(stored, 1, 22)
for at = 23, #stored, 8 do
  if sub(stored, at, at + 7) == ARGV[2] then return {'1', 'DUP', state_of(call('MGET', T .. rid)[1] or '1c'), rid} end
end
local old = current ~= '' and redis.pcall('GET', T .. current)
local waits = type(old) == 'string' and is_whole(old) and find('qd', state_of(old), 1, true) and not in_doubt(old) and not holder_of(current)
if waits and current ~= rid then return {'1', 'OTHER', state_of(old), current} end
if not waits and current == rid then return {'1', 'TAKEN', '', rid} end
if waits and route_of(old) ~= route or not waits and call('EXISTS', T .. rid) == 1 then return {'1', 'CONFLICT', '', rid} end
local state = ARGV[7] == '0' and 'q' or 'd'
local stays = waits and state_of(old) == 'q' and state == 'q' and ARGV[9] == ''
  and select(3, route_of(old)) == place
if waits then
  if not stays then withdraw(rid, old) end
  call('ZREM', P .. 'ex', rid)
  local client, clients = sub(old, 33, 40), sure('HGET', P .. 'v', rid) or ''
  local told = client == sub(ARGV[5], 7, 14)
  for at = 1, #clients, 8 do told = told or sub(clients, at, at + 7) == client end
  if not told then call('HSET', P .. 'v', rid, clients .. client) end -- it waits for the run's end, as before
else
  index('i', route, {rid})
end
call('SET', T .. rid, '1' .. state .. (waits and token_of(old) or '00000000000000') .. since .. ARGV[5])
call('SET', rk, rid .. ARGV[2] .. sub(stored, 23, 78), 'EX', format('%d', 691200 + ARGV[7] / 1000))
if ARGV[8] ~= '' then set_deadline({rid}, ARGV[8]) end
if ARGV[9] ~= '' and wait_for({rid}, ARGV[9], state == 'd' and format('%.0f', now() + ARGV[7])) then
  call('SETRANGE', T .. rid, 1, 'd')
  count('d:', route, 1)
  state = 'd'
elseif state == 'd' then
  delay_until(rid, route, now() + ARGV[7])
elseif not stays then
  local first = false
  -- include: enlist
  offer(route)
end
settle()
return {'1', waits and 'REPLACED' or 'OK', state, rid}
