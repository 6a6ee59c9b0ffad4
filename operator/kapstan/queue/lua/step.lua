#!lua flags=allow-oom
-- step: finish N runs and claim up to M in one round trip; a lane that asked for work and got none is parked.
-- KEYS: prefix
-- ARGV: session lane want park ttl routes rest...
--   want: how many to claim, at most 256; park: 1 if the lane will wait when there is nothing
--   ttl: seconds for which ended records stay; routes: how many routes follow
--   rest: the routes in the order in which they are to be asked, each with how many of its runs fill a claim alone; then
--     rid, token, state, envelope of each outcome
-- Reply: format, OK | PARKED | DRAIN | DEAD | ERA, lost rids, claims (rid, token, record as it was before the claim)
-- An outcome counts only if this session still holds the run with that token; one that is already the run's recorded
-- end with that token is a repeat and no loss.
-- include: now
-- include: record
-- include: route
-- include: era
-- include: index
-- include: settle
-- include: finish
local session, lane, want, ttl = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[5]
local first = 7 + 2 * ARGV[6]
if not era() then return {'1', 'ERA', {}, {}} end
local w = P .. 'w:' .. session
local fields, keys = {'@', '!', '#' .. lane}, {}
for i = first, #ARGV, 4 do
  fields[#fields + 1] = ARGV[i]
  keys[#keys + 1] = P .. 't:' .. ARGV[i]
end
local held = call('HMGET', w, unpack(fields))
local lost, gone = {}, {}
if #keys > 0 then
  local records = call('MGET', unpack(keys))
  for i, record in ipairs(records) do
    local at = first + (i - 1) * 4
    local rid, token = ARGV[at], ARGV[at + 1]
    local claim = held[i + 3]
    if record and claim and sub(claim, 1, 14) == token then
      count('r:', finish(rid, record, ARGV[at + 2], token, ARGV[at + 3], ttl, session), -1)
      gone[#gone + 1] = rid
    elseif not (record and TERMINAL[state_of(record)] and token_of(record) == token) then
      lost[#lost + 1] = rid
    end
  end
  if #gone > 0 then call('HDEL', w, unpack(gone)) end
end
local status, claims = 'OK', {}
if held[3] then call('HDEL', w, '#' .. lane) end -- it steps, so it waits no more; promote must not hand to it
if not held[1] then
  status = 'DEAD'
elseif held[2] then
  status = 'DRAIN'
elseif want > 0 then
  -- include: claim
  -- include: offer
  -- include: promote
  promote()
  local left, alone = 1, false -- of the claim
  for i = 7, first - 1, 2 do
    local most = tonumber(ARGV[i + 1])
    local room = math.min(want - #claims / 3, math.floor(left * most + 1e-6))
    if room > 0 and not alone then
      local taken
      taken, alone = take(ARGV[i], room, #claims == 0)
      hold(session, lane, ARGV[i], taken, claims)
      left = left - #taken / most
    end
  end
  if #claims == 0 and ARGV[4] == '1' then
    status = 'PARKED'
    call('HSET', w, '#' .. lane, '1')
    for i = 7, first - 1, 2 do call('SADD', P .. 'idle:' .. ARGV[i], session .. '|' .. lane) end
  end
end
settle()
return {'1', status, lost, claims}
