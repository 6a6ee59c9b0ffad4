-- What scripts share: the record's layout, the clock, the era, and the steps of a state change. What stands before the
-- first section stands in front of every script; the sections where a script says `-- include: <section>`, since a
-- server makes every function anew at each call (0.2 us each). A section uses those above it. What runs often hands
-- commands text, not numbers: a server prints each number with 17 digits (0.2 us each).
--
-- KEYS[1] is '{namespace}:', the one hash tag; every key is it and a name of keys.py. A record (t:<rid>) is one string:
--   1 format, 2 state, 3-16 token (era 6, epoch 8 digits), 17-26 since (when this state began: milliseconds since 2020,
--   hexadecimal), 27 crashes, 28-30 attempt, 31 flags (2 cancel asked), 32 effect class, 33-40 client,
--   then fingerprint NUL route NUL envelope. After the end, US (character 31), when the run started (as since; nothing if
--   it never did) and the session that held it stand behind the route.
-- States: q ready or running, d delayed, r running, p parked; c completed, f failed, x crashed, k cancelled. A claim stands
-- in the hash of its session alone, so the record of a run that is held says q, as before the claim, and its token is the
-- last one that came back: a write of each record would be a tenth of what a run costs. r is written where a run may
-- stand twice in its list (see take).
-- A session hash (w:<session>) holds '@' its info, '=' when it last renewed, '!' draining, '~' runs to cancel, '#<lane>' idle lane,
-- and for every claim rid -> token .. since .. lane.
local P, T = KEYS[1], KEYS[1] .. 't:'
local call, sub, find, format, byte = redis.call, string.sub, string.find, string.format, string.byte
local time = call('TIME')
local moment = time[1] * 1000 + math.floor(time[2] / 1000) -- milliseconds since 1970, by the server's clock
local since = format('%010x', moment - 1577836800000)

local shift -- what the server's clock was set back (ms), see renew

-- section: now
-- Milliseconds of a clock that never goes back.
local function now()
  shift = shift or tonumber(call('HGET', P .. 'm', 'shift') or 0)
  return moment + shift
end

-- section: record
local TERMINAL = {c = true, f = true, x = true, k = true}
local CANCEL = 2
local RID = 22

local function state_of(record) return sub(record, 2, 2) end
local function token_of(record) return sub(record, 3, 16) end
local function to_cancel(record) return bit.band(sub(record, 31, 31), CANCEL) ~= 0 end

-- section: holder
-- The session that holds a run, and its entry there; nil if none does.
local function holder_of(rid)
  for _, session in ipairs(call('ZRANGE', P .. 's', 0, 9999)) do
    local claim = call('HGET', P .. 'w:' .. session, rid)
    if claim then return session, claim end
  end
  return nil
end

-- The state of a run: r of one that is held.
local function state_now(rid, record)
  local state = state_of(record)
  return state == 'q' and holder_of(rid) and 'r' or state
end

-- section: route
-- The route of a record, and the position of the NUL behind it.
local function route_of(record)
  local from = find(record, '\0', 41, true) + 1
  local to = find(record, '\0', from, true)
  return sub(record, from, to - 1), to
end

-- section: repeated
-- Of a run that is there already: its state, and whether `record` is of the same task and arguments.
local function repeated(rid, there, record)
  local of_there, of_record = find(there, '\0', 41, true), find(record, '\0', 41, true)
  return state_now(rid, there), sub(there, 41, of_there) == sub(record, 41, of_record)
end

-- section: era
-- The era in which this server may mint tokens; false from its start until set_era names this very start.
local known_era
local function era()
  if known_era == nil then
    local stored = call('HMGET', P .. 'm', 'era', 'run_id', 'shift')
    shift = tonumber(stored[3] or 0)
    known_era = stored[1] and find(call('INFO', 'server'), 'run_id:' .. stored[2], 1, true) and stored[1] or false
  end
  return known_era
end

-- section: index
-- What lists of runs are read from. Lists by hour and route: 'i' of what was submitted, 'e' of what ended
-- otherwise than completed; an entry is 3 bytes (milliseconds within the hour) and the rids of that moment, at most 16.
-- 'ir' and 'er' name the hour's routes, at most 500; those beyond share the list of the route ''. All stay for eight
-- days. The number of entries is answered.
local function index(kind, route, rids)
  local hour, entries = format('%d', moment / 3600000), {}
  local at = struct.pack('>I3', moment % 3600000)
  for i = 1, #rids, 16 do entries[#entries + 1] = at .. table.concat(rids, '', i, math.min(i + 15, #rids)) end
  local key, routes = P .. kind .. ':' .. hour .. ':', P .. kind .. 'r:' .. hour
  if call('RPUSHX', key .. route, unpack(entries)) > 0 then return #entries end
  if call('SCARD', routes) >= 500 then route = '' end
  call('RPUSH', key .. route, unpack(entries))
  call('EXPIRE', key .. route, 691200)
  call('SADD', routes, route)
  call('EXPIRE', routes, 691200)
  return #entries
end

-- section: settle
-- Per minute, kept for three hours: how many runs of a route started (field 'r:<route>'), ended ('c:', 'f:', 'x:', 'k:')
-- or were begun once more by a person or submitted together with others ('s:'; one run for each entry of the lists by
-- hour is counted there, see submitted). Past 3,000 fields, new routes are counted together (route '').
local function tally(kind, route, by)
  local minute, field = P .. 'x:' .. format('%d', moment / 60000), kind .. ':' .. route
  if call('HINCRBY', minute, field, format('%d', by)) ~= by then return end
  if call('HLEN', minute) > 3000 then
    call('HDEL', minute, field)
    call('HINCRBY', minute, kind .. ':', by)
  end
  call('EXPIRE', minute, 10800)
end

-- How many runs of a route run ('r:') or are delayed ('d:') and how many entries of its list are stale ('k:'), in hash n,
-- and how many began or ended (see tally): collected here, written once by settle(). A field that came to 0 goes.
local moved, passed = {}, {}
local function add(sums, kind, route, by)
  local routes = sums[kind] or {}
  sums[kind] = routes
  routes[route] = (routes[route] or 0) + by
end

local function count(kind, route, by) add(moved, kind, route, by) end
local function pass(kind, route, by) add(passed, kind, route, by) end

-- What clients are told about ended runs, one message per client and call: rid, six digits of length, record (length 0:
-- read it). The first four records ride along; a client reads many for less than it costs to make them one message here.
-- `listener` answers the parts of a client's message; false where nobody listens now: whoever begins to asks for what
-- ended before (watch).
local news = {}
local function listener(client)
  local parts = news[client]
  if parts == nil then
    parts = call('PUBSUB', 'NUMSUB', P .. 'c:' .. client)[2] > 0 and {}
    news[client] = parts
  end
  return parts
end

local function note(parts, rid, record)
  local at = #parts
  parts[at + 1] = rid
  if at < 12 and #record <= 2048 then
    parts[at + 2], parts[at + 3] = format('%06d', #record), record
  else
    parts[at + 2] = '000000'
  end
end

-- The clients beside its submitter that wait for a run stand in hash v, 8 characters each.
local watched
local function any_watched()
  if watched == nil then watched = call('EXISTS', P .. 'v') == 1 end
  return watched
end

local function note_watchers(rid, record)
  local clients = any_watched() and call('HGET', P .. 'v', rid)
  if not clients then return end
  call('HDEL', P .. 'v', rid)
  for at = 1, #clients, 8 do
    local parts = listener(sub(clients, at, at + 7))
    if parts then note(parts, rid, record) end
  end
end

local function settle()
  for kind, routes in pairs(moved) do
    for route, by in pairs(routes) do
      if by ~= 0 and call('HINCRBY', P .. 'n', kind .. route, format('%d', by)) == 0 then
        call('HDEL', P .. 'n', kind .. route)
      end
    end
  end
  for kind, routes in pairs(passed) do
    for route, by in pairs(routes) do
      if by ~= 0 then tally(kind, route, by) end
    end
  end
  for client, parts in pairs(news) do
    if parts then call('PUBLISH', P .. 'c:' .. client, table.concat(parts)) end
  end
end

-- section: expiry
-- When a record goes that ended now. A moment costs a third less than EX, which a server turns into one at each SET.
local function expiry(ttl) return format('%d', moment + ttl * 1000) end

-- section: finish
-- Write the end of a run and note it for its submitter and for whoever watches it; its route. `session` held it since
-- `started`, nil if none did. The arguments of a run that did not complete are kept: a person may have it run once more. What a worker
-- completes, `step` writes itself: the lane sends what the record says of the run, which then need not be read.
local expires
local function finish(rid, record, state, token, envelope, ttl, session, started)
  local route, to = route_of(record)
  local ended = '1' .. state .. token .. since .. sub(record, 27, 30) .. '0' .. sub(record, 32, to - 1) .. '\31'
    .. (started or '') .. (session or '') .. '\0' .. envelope
  expires = expires or expiry(ttl)
  call('SET', P .. 't:' .. rid, ended, 'PXAT', expires)
  if state ~= 'c' then
    call('SET', P .. 'args:' .. rid, sub(record, to + 1), 'PXAT', expires)
    index('e', route, {rid})
  end
  pass(state, route, 1)
  local parts = listener(sub(record, 33, 40))
  if parts then note(parts, rid, ended) end
  note_watchers(rid, ended)
  return route
end

-- section: claim
-- Take up to `want` ready runs off a route's list: rids and their records. Entries that are stale (cancelled
-- meanwhile, or standing there twice) are dropped, at most 5,000 a call. A run of another class than pure comes alone.
-- Then: true if that is so, or it is next, and nothing else may be claimed now; true if the list was not looked through.
-- A run stands twice where it was cancelled and began anew (by a person, or its id was used again). As its first entry is
-- counted as stale until it is popped, that is known: then the claim is written into the record, too.
local function take(route, want, empty)
  local list, rids, records, size, stale, ask = P .. 'q:' .. route, {}, {}, 0, 0, want
  local seen -- the runs that were taken, where a run may stand twice
  local function put_back(popped, from)
    local back = {}
    for i = #popped, from, -1 do back[#back + 1] = popped[i] end
    if #back > 0 then call('LPUSH', list, unpack(back)) end
    if stale > 0 then count('k:', route, -stale) end
  end
  while size < want and stale < 5000 do
    local popped = call('LPOP', list, format('%d', ask))
    if not popped then
      if stale > 0 then call('HDEL', P .. 'n', 'k:' .. route) end -- an empty list has none
      return rids, records, false
    end
    if seen == nil then seen = call('HEXISTS', P .. 'n', 'k:' .. route) == 1 and {} end
    local names = {}
    for i = 1, #popped do names[i] = T .. popped[i] end
    local found = call('MGET', unpack(names))
    for i = 1, #popped do
      local rid, record = popped[i], found[i]
      local state, class
      if record then state, class = byte(record, 2), byte(record, 32) end
      if state == 113 and not (seen and seen[rid]) then -- q
        local alone = class ~= 112 -- p
        if size == want or alone and not (empty and size == 0) then
          put_back(popped, i)
          return rids, records, alone
        end
        size = size + 1
        rids[size], records[size] = rid, record
        if seen then
          seen[rid] = true
          call('SETRANGE', names[i], '1', 'r')
        end
        if alone then
          put_back(popped, i + 1)
          return rids, records, true
        end
      else
        stale = stale + 1
      end
    end
    ask = stale > 0 and 500 or want - size
  end
  put_back({}, 1)
  return rids, records, false, size == 0
end

-- Give the runs that take() answered to a lane: mints their tokens, which it answers. Most runs of a call have the same
-- epoch, so what is made of it is made once.
local function hold(session, lane, route, rids, records)
  local fields, tokens, holders, minted = {}, {}, {}, {}
  for i = 1, #rids do
    local epoch = sub(records[i], 9, 16)
    local token = minted[epoch]
    if not token then
      token = era() .. format('%08d', epoch + 1)
      minted[epoch], holders[epoch] = token, token .. since .. lane
    end
    fields[2 * i - 1], fields[2 * i], tokens[i] = rids[i], holders[epoch], token
  end
  call('HSET', P .. 'w:' .. session, unpack(fields))
  count('r:', route, #rids)
  pass('r', route, #rids)
  return tokens
end

-- section: offer
-- The next idle lane that serves `route`: session, lane. Stale entries are dropped on the way.
local function idle_lane(route)
  for _ = 1, 10000 do
    local member = call('SPOP', P .. 'idle:' .. route)
    if not member then return nil end
    local session, lane = string.match(member, '^(.*)|(%d+)$')
    local marks = call('HMGET', P .. 'w:' .. session, '@', '!', '#' .. lane)
    if marks[1] and not marks[2] and marks[3] then return session, lane end
  end
  return nil
end

-- Hand the ready runs of a route to idle lanes, each with its claim in the message. A lane that does not listen (0
-- receivers) is idle no more, and its run stays first in the list with the epoch that was spent. What one call cannot
-- hand over, the lanes fetch: all are asked to step again.
local function offer(route)
  local list = P .. 'q:' .. route
  for _ = 1, 1000 do
    if call('EXISTS', P .. 'idle:' .. route) == 0 or call('LLEN', list) == 0 or not era() then return end
    local session, lane = idle_lane(route)
    if not session then return end
    local rids, records, _, more = take(route, 1, true)
    local rid, record = rids[1], records[1]
    if not rid then
      call('SADD', P .. 'idle:' .. route, session .. '|' .. lane)
      if more then break end
      return
    end
    call('HDEL', P .. 'w:' .. session, '#' .. lane)
    local token = hold(session, lane, route, rids, records)[1]
    local claim = 'c' .. rid .. token .. sub(record, 1, 16) .. since .. sub(record, 27)
    if call('PUBLISH', P .. 'l:' .. session .. ':' .. lane, claim) == 0 then
      call('SETRANGE', T .. rid, 1, 'q' .. token)
      call('HDEL', P .. 'w:' .. session, rid)
      call('LPUSH', list, rid)
      count('r:', route, -1)
      pass('r', route, -1)
    end
  end
  call('PUBLISH', P .. 'b', 'more')
end

local function offer_all(routes)
  for route in pairs(routes) do offer(route) end
end

-- section: promote
-- Move at most 100 due runs to their ready lists and offer them.
local function promote()
  local due = call('ZRANGEBYSCORE', P .. 'd', '-inf', format('%d', now()), 'LIMIT', '0', '100')
  if #due == 0 then return end
  local routes = {}
  for _, rid in ipairs(due) do
    local record = call('GET', P .. 't:' .. rid)
    if record and state_of(record) == 'd' then
      local route = route_of(record)
      call('SETRANGE', P .. 't:' .. rid, 1, 'q' .. token_of(record) .. since)
      call('RPUSH', P .. 'q:' .. route, rid)
      count('d:', route, -1)
      routes[route] = true
    end
    call('ZREM', P .. 'd', rid)
  end
  offer_all(routes)
end

-- section: delay
-- Let a run wait until `due` (ms); supervisors are told when nothing was due earlier.
local function delay_until(rid, route, due)
  call('ZADD', P .. 'd', due, rid)
  count('d:', route, 1)
  if call('ZRANGE', P .. 'd', 0, 0)[1] == rid then call('PUBLISH', P .. 'due', due) end
end
