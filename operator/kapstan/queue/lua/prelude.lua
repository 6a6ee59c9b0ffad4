-- What scripts share: the record's layout, the clock, the era, and the steps of a state change. What stands before the
-- first section stands in front of every script; the sections where a script says `-- include: <section>`, since a
-- server makes every function anew at each call (0.2 us each). A section uses those above it. What runs often hands
-- commands text, not numbers: a server prints each number with 17 digits (0.2 us each).
--
-- KEYS[1] is '{namespace}:', the one hash tag; every key is it and a name of keys.py. A record (t:<rid>) is one string:
--   1 format, 2 state, 3-16 token (era 6, epoch 8 digits), 17-26 since (when this state began: milliseconds since 2020,
--   hexadecimal), 27 crashes, 28-30 attempt, 31 flags (1 watched, 2 cancel asked), 32 effect class, 33-40 client,
--   then fingerprint NUL route NUL envelope. After the end, US (character 31), when the run started (as since; nothing if
--   it never did) and the session that held it stand behind the route.
-- States: q ready, d delayed, r running, p parked; c completed, f failed, x crashed, k cancelled.
-- A session hash (w:<session>) holds '@' its info, '=' when it last renewed, '!' draining, '~' runs to cancel, '#<lane>' idle lane,
-- and for every claim rid -> token .. lane.
local P = KEYS[1]
local call, sub, find, format = redis.call, string.sub, string.find, string.format
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
local WATCHED, CANCEL = 1, 2
local RID = 22

local function state_of(record) return sub(record, 2, 2) end
local function token_of(record) return sub(record, 3, 16) end
local function has(record, flag)
  local flags = sub(record, 31, 31)
  return flags ~= '0' and bit.band(flags, flag) ~= 0
end
local function flagged(record, flag) return sub(record, 1, 30) .. bit.bor(sub(record, 31, 31), flag) .. sub(record, 32) end

-- section: route
-- The route of a record, and the position of the NUL behind it.
local function route_of(record)
  local from = find(record, '\0', 41, true) + 1
  local to = find(record, '\0', from, true)
  return sub(record, from, to - 1), to
end

-- section: repeated
-- Of a run that is there already: its state, and whether `record` is of the same task and arguments.
local function repeated(there, record)
  local of_there, of_record = find(there, '\0', 41, true), find(record, '\0', 41, true)
  return state_of(there), sub(there, 41, of_there) == sub(record, 41, of_record)
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

-- What clients are told about ended runs, one message per client and call: rid, six digits of length, record
-- (length 0: too long to ride along, read it). False where nobody listens now: whoever begins to asks for what ended
-- before (watch).
local news = {}
local function note(client, rid, record)
  local parts = news[client]
  if parts == nil then
    parts = call('PUBSUB', 'NUMSUB', P .. 'c:' .. client)[2] > 0 and {}
    news[client] = parts
  end
  if parts then
    parts[#parts + 1] = #record <= 2048 and rid .. format('%06d', #record) .. record or rid .. '000000'
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

-- section: finish
-- Write the end of a run and note it for its submitter and for whoever watches it; its route. `session` held it, nil if
-- none did. The arguments of a run that did not complete are kept: a person may have it run once more. A moment costs a
-- third less than EX, which a server turns into one at each SET.
local expires
local function finish(rid, record, state, token, envelope, ttl, session)
  local route, to = route_of(record)
  local ended = '1' .. state .. token .. since .. sub(record, 27, 30) .. '0' .. sub(record, 32, to - 1) .. '\31'
    .. (session and sub(record, 17, 26) or '') .. (session or '') .. '\0' .. envelope
  expires = expires or format('%d', moment + ttl * 1000)
  call('SET', P .. 't:' .. rid, ended, 'PXAT', expires)
  if state ~= 'c' then
    call('SET', P .. 'args:' .. rid, sub(record, to + 1), 'PXAT', expires)
    index('e', route, {rid})
  end
  pass(state, route, 1)
  note(sub(record, 33, 40), rid, ended)
  if has(record, WATCHED) then
    for _, client in ipairs(call('SMEMBERS', P .. 'v:' .. rid)) do note(client, rid, ended) end
    call('DEL', P .. 'v:' .. rid)
  end
  return route
end

-- section: claim
-- Take up to `want` ready runs off a route's list, as {rid, record, key} of each. Entries that are stale (cancelled
-- meanwhile, or standing there twice) are dropped, at most 5,000 a call. A run of another class than pure comes alone.
-- Second: true if that is so, or it is next, and nothing else may be claimed now; third: true if the list was not
-- looked through.
local function take(route, want, empty)
  local list, taken, seen, stale, size = P .. 'q:' .. route, {}, {}, 0, 1
  local function put_back(rids, from)
    if from <= #rids then
      local back = {}
      for i = #rids, from, -1 do back[#back + 1] = rids[i] end
      call('LPUSH', list, unpack(back))
    end
    if stale > 0 then count('k:', route, -stale) end
  end
  while #taken < want and stale < 5000 do
    local rids = call('LPOP', list, format('%d', size))
    if not rids then
      if stale > 0 then call('HDEL', P .. 'n', 'k:' .. route) end -- an empty list has none
      return taken, false
    end
    local keys = {}
    for i, rid in ipairs(rids) do keys[i] = P .. 't:' .. rid end
    for i, record in ipairs(call('MGET', unpack(keys))) do
      local rid = rids[i]
      if record and state_of(record) == 'q' and not seen[rid] then
        seen[rid] = true -- it stands twice where it was cancelled and a person had it run once more
        local alone = sub(record, 32, 32) ~= 'p'
        if #taken == want or alone and not (empty and #taken == 0) then
          put_back(rids, i)
          return taken, alone
        end
        taken[#taken + 1] = {rid, record, keys[i]}
        if alone then
          put_back(rids, i + 1)
          return taken, true
        end
      else
        stale = stale + 1
      end
    end
    size = stale > 0 and 500 or want - #taken
  end
  put_back({}, 1)
  return taken, false, #taken == 0
end

-- Give the runs in `taken` to a lane: mints their tokens. Appends rid, token, record to `claims`. Most runs of a call
-- have the same epoch, so what is made of it is made once.
local function hold(session, lane, route, taken, claims)
  if #taken == 0 then return end
  local fields, tokens, holders, heads, size = {}, {}, {}, {}, #claims
  for i = 1, #taken do
    local rid, record = taken[i][1], taken[i][2]
    local epoch = sub(record, 9, 16)
    local token = tokens[epoch]
    if not token then
      token = era() .. format('%08d', epoch + 1)
      tokens[epoch], holders[epoch], heads[epoch] = token, token .. lane, 'r' .. token .. since
    end
    call('SETRANGE', taken[i][3], '1', heads[epoch])
    fields[2 * i - 1], fields[2 * i] = rid, holders[epoch]
    claims[size + 1], claims[size + 2], claims[size + 3] = rid, token, record
    size = size + 3
  end
  call('HSET', P .. 'w:' .. session, unpack(fields))
  count('r:', route, #taken)
  pass('r', route, #taken)
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
    local taken, _, more = take(route, 1, true)
    local claims = {}
    if #taken == 0 then
      call('SADD', P .. 'idle:' .. route, session .. '|' .. lane)
      if more then break end
      return
    end
    call('HDEL', P .. 'w:' .. session, '#' .. lane)
    hold(session, lane, route, taken, claims)
    if call('PUBLISH', P .. 'l:' .. session .. ':' .. lane, 'c' .. claims[1] .. claims[2] .. claims[3]) == 0 then
      call('SETRANGE', P .. 't:' .. claims[1], 1, 'q')
      call('HDEL', P .. 'w:' .. session, claims[1])
      call('LPUSH', list, claims[1])
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
