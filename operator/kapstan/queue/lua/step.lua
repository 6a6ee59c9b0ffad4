#!lua flags=allow-oom
-- step: finish N runs and claim up to M in one round trip; a lane that asked for work, got none and holds nothing is idle:
-- whatever becomes ready for it is handed to it.
-- KEYS: prefix
-- ARGV: session lane connection sure want ttl routes rest...
--   connection: number of the lane's connection; '' on another one, which hands in and leaves alone whether it is idle
--   sure: 1 if the lane can tell that it holds nothing more after this step; else its claims are looked through
--   want: how many to claim, at most 256
--   ttl: seconds for which ended records stay; routes: how many routes follow
--   rest: the routes in the order in which they are to be asked, each with how many of its runs fill a claim alone; then
--     outcomes in groups: state, client, route, how many, and of each rid, token, envelope; where the client is named
--     (state 'c' alone) of each rid, claim (token and since, as the session's hash has them) and the whole record of the
--     end: the lane knows it from the claim, so nothing is read, and Lua makes no long string, which costs by its length
-- Reply: format, OK | IDLE | HOLDS (nothing to claim, and the lane is not idle: it holds runs) | MORE (ask again: not
--   every entry could be looked at) | DRAIN | DEAD | ERA | STALE (the lane has a newer connection: nothing was done),
--   lost rids, claims (rid, record as it was before), the era and the moment (as since) of the claims
-- An outcome counts only if this session still holds the run with that token; one that is already the run's recorded
-- end with that token is a repeat and no loss.
-- include: now
-- include: era
-- include: paused
-- include: settle
-- include: expiry
local session, lane, connection, want, ttl = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[5]), ARGV[6]
local first, last = 8 + 2 * ARGV[7], #ARGV
if not era() then return {'1', 'ERA', {}, {}} end
stay = ttl
local w = P .. 'w:' .. session
local fields, size = {'@', '!', '#' .. lane, '^' .. lane}, 4
local at = first
while at < last do
  local next = at + 4 + 3 * ARGV[at + 3]
  for i = at + 4, next - 1, 3 do
    size = size + 1
    fields[size] = ARGV[i]
  end
  at = next
end
local held = call('HMGET', w, unpack(fields))
if connection ~= '' and held[4] ~= connection and held[1] then
  if (tonumber(held[4] or 0) or 0) > tonumber(connection) then return {'1', 'STALE', {}, {}} end
  call('HSET', w, '^' .. lane, connection)
end
local lost, gone = {}, {}
local freed -- of runs that held slots: rid, and what its claim says of them
local holders = {} -- by claim, which most runs of a call share

-- An outcome of a run that is not held with its token: a repeat of the end that is recorded already, or lost.
local function not_held(rid, token, state)
  local record = call('GET', T .. rid)
  if not (record and sub(record, 2, 16) == state .. token) then lost[#lost + 1] = rid end
end

-- Outcomes of which the lane sent no more than the envelope: their records are read.
local function end_by_record(from, to, at)
  -- include: ending
  local state = ARGV[from]
  for i = from + 4, to, 3 do
    local rid, token, claim = ARGV[i], ARGV[i + 1], held[at]
    local record = claim and sub(claim, 1, 14) == token and call('GET', T .. rid)
    if record then record = whole(rid, record, '') end
    if record and state == 'p' then
      -- include: park
      count('r:', park(rid, record, token, ARGV[i + 2], sub(claim, 15, 24)), -1)
      gone[#gone + 1] = rid
    elseif record then
      count('r:', finish(rid, record, state, token, ARGV[i + 2], ttl, session, sub(claim, 15, 24)), -1)
      gone[#gone + 1] = rid
    else
      not_held(rid, token, state)
    end
    local slots = record and find(claim, '\30', 25, true)
    if slots then
      freed = freed or {}
      freed[#freed + 1] = {rid, sub(claim, slots)}
    end
    at = at + 1
  end
end

-- Completed runs of one client and route.
local function complete(from, to, at)
  local client, route, known = ARGV[from + 1], ARGV[from + 2], #gone
  local done, parts, expires, v, ended = known, listener(client), expiry(ttl), any_watched(), {}
  for i = from + 4, to, 3 do
    local rid, claim = ARGV[i], ARGV[i + 1]
    local holder = holders[claim]
    if not holder then
      holder = claim .. lane
      holders[claim] = holder
    end
    local entry = held[at]
    if entry and entry ~= holder and sub(entry, 1, #holder + 1) == holder .. '\30' then
      freed = freed or {}
      freed[#freed + 1] = {rid, sub(entry, #holder + 1)}
      entry = holder
    end
    if entry == holder then
      local record = ARGV[i + 2]
      call('SET', T .. rid, record, 'PXAT', expires)
      if parts then note(parts, rid, record) end
      done = done + 1
      gone[done] = rid
      if v then ended[done] = record end
    else
      not_held(rid, sub(claim, 1, 14), 'c')
    end
    at = at + 1
  end
  if done == known then return end
  if v then -- one read tells for all of them whom others wait for
    local asked = {}
    for i = known + 1, done do
      asked[#asked + 1] = gone[i]
      asked[#asked + 1] = '>' .. gone[i]
    end
    local watchers = redis.pcall('HMGET', P .. 'v', unpack(asked))
    for i = known + 1, done do
      local at = 2 * (i - known)
      if watchers[at - 1] or watchers[at] then note_watchers(gone[i], ended[i]) end
    end
  end
  count('r:', route, known - done)
  pass('c', route, done - known)
end

local from, of = first, 5
while from < last do
  local number = tonumber(ARGV[from + 3])
  local to = from + 3 + 3 * number
  if ARGV[from + 1] == '' then end_by_record(from, to, of) else complete(from, to, of) end
  from, of = to + 1, of + number
end
if #gone > 0 then call('HDEL', w, unpack(gone)) end
local routes = {}
for _, each in ipairs(freed or {}) do
  local rid, slots = each[1], each[2]
  -- include: free
end
local status, claims = 'OK', {}
-- It steps, so it waits no more; promote must not hand to it.
if held[3] and connection ~= '' then call('HDEL', w, '#' .. lane) end
if not held[1] then
  status = 'DEAD'
elseif held[2] then
  status = 'DRAIN'
elseif want > 0 then
  if watched and #gone > 0 then
    -- include: sure
    -- include: set_free
    set_free()
  end
  -- include: due
  if #due_now > 0 then
    -- include: claim
    -- include: offer
    -- include: promote
    promote(due_now)
  end
  local more = false
  -- Where all lists are empty, which is the rule for a lone run, what takes runs is not made.
  local waiting = any_turns or any_limits or first > 30
  if not waiting then
    local lists = {}
    for i = 8, first - 1, 2 do lists[#lists + 1] = P .. 'q:' .. ARGV[i] end
    waiting = #lists > 0 and call('EXISTS', unpack(lists)) > 0
  end
  if waiting then
    -- include: claim
    local left, alone, size = 1, false, 0 -- left: of the claim
    for i = 8, first - 1, 2 do
      local most = tonumber(ARGV[i + 1])
      local room = math.min(want - size / 2, math.floor(left * most + 1e-6))
      if room > 0 and not alone and not paused(ARGV[i]) then
        local rids, records, unread, slots
        rids, records, alone, unread, slots = take(ARGV[i], room, size == 0)
        more = more or unread
        if #rids > 0 then hold(session, lane, ARGV[i], rids, records, slots) end
        for j = 1, #rids do
          claims[size + 1], claims[size + 2] = rids[j], records[j]
          size = size + 2
        end
        left = left - #rids / most
      end
    end
  end
  if #claims == 0 then
    status = more and 'MORE' or 'IDLE'
    for _, value in ipairs((more or ARGV[4] == '1') and {} or call('HVALS', w)) do
      if sub(value, 25, 24 + #lane) == lane and (byte(value, 25 + #lane) or 30) == 30 then
        status = 'HOLDS'
        break
      end
    end
    if status == 'IDLE' then
      call('HSET', w, '#' .. lane, '1')
      for i = 8, first - 1, 2 do
        local idle = P .. 'idle:' .. ARGV[i]
        if type(redis.pcall('SADD', idle, session .. '|' .. lane)) ~= 'number' then -- another program wrote there
          call('DEL', idle)
          call('SADD', idle, session .. '|' .. lane)
        end
      end
    end
  end
end
if next(routes) then
  -- include: whole
  -- include: claim
  -- include: offer
  offer_all(routes)
end
settle()
return {'1', status, lost, claims, era(), since}
