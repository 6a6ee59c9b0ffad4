#!lua flags=allow-oom
-- step: finish N runs and claim up to M in one round trip; a lane that asked for work, got none and holds nothing is idle:
-- whatever becomes ready for it is handed to it.
-- KEYS: prefix
-- ARGV: session lane connection want ttl routes rest...
--   connection: number of the lane's connection; '' on another one, which hands in and leaves alone whether it is idle
--   want: how many to claim, at most 256
--   ttl: seconds for which ended records stay; routes: how many routes follow
--   rest: the routes in the order in which they are to be asked, each with how many of its runs fill a claim alone; then
--     rid, token, state, envelope of each outcome
-- Reply: format, OK | IDLE | HOLDS (nothing to claim, and the lane is not idle: it holds runs) | MORE (ask again: not
--   every entry could be looked at) | DRAIN | DEAD | ERA | STALE (the lane has a newer connection: nothing was done),
--   lost rids, claims (rid, token, record as it was before)
-- An outcome counts only if this session still holds the run with that token; one that is already the run's recorded
-- end with that token is a repeat and no loss.
-- include: now
-- include: record
-- include: route
-- include: era
-- include: index
-- include: settle
-- include: finish
local session, lane, connection, want, ttl = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), ARGV[5]
local first = 7 + 2 * ARGV[6]
if not era() then return {'1', 'ERA', {}, {}} end
local w = P .. 'w:' .. session
local fields, keys = {'@', '!', '#' .. lane, '^' .. lane}, {}
for i = first, #ARGV, 4 do
  local at = (i - first) / 4 + 1
  fields[at + 4], keys[at] = ARGV[i], P .. 't:' .. ARGV[i]
end
local held = call('HMGET', w, unpack(fields))
if connection ~= '' and held[4] ~= connection and held[1] then
  if held[4] and tonumber(held[4]) > tonumber(connection) then return {'1', 'STALE', {}, {}} end
  call('HSET', w, '^' .. lane, connection)
end
local lost, gone = {}, {}
if #keys > 0 then
  local records = call('MGET', unpack(keys))
  for i = 1, #records do
    local at, record, claim = first + (i - 1) * 4, records[i], held[i + 4]
    local rid, token = ARGV[at], ARGV[at + 1]
    if record and claim and sub(claim, 1, 14) == token then
      count('r:', finish(rid, record, ARGV[at + 2], token, ARGV[at + 3], ttl, session), -1)
      gone[#gone + 1] = rid
    elseif not (record and state_of(record) == ARGV[at + 2] and token_of(record) == token) then
      lost[#lost + 1] = rid
    end
  end
  if #gone > 0 then call('HDEL', w, unpack(gone)) end
end
local status, claims = 'OK', {}
-- It steps, so it waits no more; promote must not hand to it.
if held[3] and connection ~= '' then call('HDEL', w, '#' .. lane) end
if not held[1] then
  status = 'DEAD'
elseif held[2] then
  status = 'DRAIN'
elseif want > 0 then
  -- include: claim
  -- include: offer
  -- include: promote
  promote()
  local left, alone, more = 1, false, false -- left: of the claim
  for i = 7, first - 1, 2 do
    local most = tonumber(ARGV[i + 1])
    local room = math.min(want - #claims / 3, math.floor(left * most + 1e-6))
    if room > 0 and not alone then
      local taken, unread
      taken, alone, unread = take(ARGV[i], room, #claims == 0)
      more = more or unread
      hold(session, lane, ARGV[i], taken, claims)
      left = left - #taken / most
    end
  end
  if #claims == 0 then
    status = more and 'MORE' or 'IDLE'
    for _, value in ipairs(more and {} or call('HVALS', w)) do
      if sub(value, 15) == lane then
        status = 'HOLDS'
        break
      end
    end
    if status == 'IDLE' then
      call('HSET', w, '#' .. lane, '1')
      for i = 7, first - 1, 2 do call('SADD', P .. 'idle:' .. ARGV[i], session .. '|' .. lane) end
    end
  end
end
settle()
return {'1', status, lost, claims}
