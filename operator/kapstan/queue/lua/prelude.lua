-- What scripts share: the record's layout, the clock, the era, and the steps of a state change. What stands before the
-- first section stands in front of every script; the sections where a script says `-- include: <section>`, since a
-- server makes every function anew at each call (0.2 us each). A section uses those above it. What runs often hands
-- commands text, not numbers: a server prints each number with 17 digits (0.2 us each).
--
-- KEYS[1] is '{namespace}:', the one hash tag; every key is it and a name of keys.py. A record (t:<rid>) is one string:
--   1 format, 2 state, 3-16 token (era 6, epoch 8 digits), 17-26 since (when this state began: milliseconds since 2020,
--   hexadecimal), 27 crashes, 28-30 attempt, 31 flags (see CANCEL), 32 effect class, 33-40 client,
--   then fingerprint NUL place NUL envelope (place: see route_of). After the end, US (character 31), when the run started (as since; nothing if
--   it never did) and the session that held it stand behind the route; of a parked run, the start and the key in doubt.
-- States: q ready or running, d delayed, r running, p parked; c completed, f failed, x crashed, k cancelled. A claim stands
-- in the hash of its session alone, so the record of a run that is held says q, as before the claim, and its token is the
-- last one that came back: a write of each record would be a tenth of what a run costs. r is written where a run may
-- stand twice in its list (see take).
-- A session hash (w:<session>) holds '@' its info, '=' when it last renewed, '!' draining, '~' runs to cancel, '#<lane>' idle lane,
-- and for every claim rid -> token .. since .. lane; behind that RS (character 30) and its name for each limit of which the
-- run holds a slot (see turns.lua).
local P, T, RID = KEYS[1], KEYS[1] .. 't:', 22 -- characters of a rid
local call, sub, find, format, byte = redis.call, string.sub, string.find, string.format, string.byte
local time = call('TIME')
local moment = time[1] * 1000 + math.floor(time[2] / 1000) -- milliseconds since 1970, by the server's clock
local since = format('%010x', moment - 1577836800000)

local shift -- what the server's clock was set back (ms), see renew
local stay -- for how many seconds ended records stay, where a script ends some

-- section: now
-- Milliseconds of a clock that never goes back.
local function now()
  shift = shift or tonumber(call('HGET', P .. 'm', 'shift') or 0) or 0
  return moment + shift
end

-- section: record
local TERMINAL = {c = true, f = true, x = true, k = true}
-- Flags, summed and written as one character from '0' on. DEADLINE: ex has the run's deadline. LATE: that passed while a
-- session held it. EXPIRED: the run ended for that. 16: of class at_most_once, and perhaps begun (see in_doubt); of any
-- class, if it was submitted again after its loss. STORED: its submission is in the object store, for as long as there is a record.
local DEADLINE, CANCEL, LATE, EXPIRED, STORED = 1, 2, 4, 8, 32

local function state_of(record) return sub(record, 2, 2) end
local function token_of(record) return sub(record, 3, 16) end
local function flagged(record, flag) return bit.band(byte(record, 31) - 48, flag) ~= 0 end
local function with_flags(record, set, kept)
  local flags = bit.bor(bit.band(byte(record, 31) - 48, kept or 63), set)
  return sub(record, 1, 30) .. string.char(48 + flags) .. sub(record, 32)
end
local function to_cancel(record) return flagged(record, CANCEL) end

-- section: doubt
-- Whether a run that waits may have begun, and only the register of its key tells what became of it: then the queue does not
-- end it, but the worker that claims it next.
local function in_doubt(record) return byte(record, 32) == 97 and flagged(record, 16) end

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
-- The route of a record, the position of the NUL behind it, and the place: the name of the run's ready list. That is the
-- route; with '||', priority, '|' and group behind it, where the run has another priority than 0 or a group.
local function route_of(record)
  local from = find(record, '\0', 41, true) + 1
  local to = find(record, '\0', from, true)
  local place = sub(record, from, to - 1)
  local bars = find(place, '||', 1, true)
  return bars and sub(place, 1, bars - 1) or place, to, place
end

-- section: whole
-- Whether a record is one that this release reads: format, token, moment, counts and class, then fingerprint and route.
local function is_whole(record)
  local head = '^1[qdrpcfxk]' .. string.rep('%d', 14) .. string.rep('%x', 10) .. '%d%d%d%d[0-o][piat]'
  local at = find(record, head) and find(record, '\0', 41, true)
  return at and find(record, '\0', at + 1, true) and true or false
end

-- Another program, or another release, wrote to the key of a run (nil: not even a string). What stands there is kept for a
-- person (bad:<rid>), and in its place comes a run of `route` ('' if that is not known) without arguments, which is never
-- executed: the worker that claims it, or finish, ends it as crashed. Its token is above what the run can have had. The
-- record, or what is there now.
local function whole(rid, record, route)
  if record and is_whole(record) then return record end
  call('RENAME', T .. rid, P .. 'bad:' .. rid)
  call('EXPIRE', P .. 'bad:' .. rid, 691200)
  local era = call('HGET', P .. 'm', 'era') or ''
  era = find(era, '^%d%d%d%d%d%d$') and era or '000000'
  local token = string.match(record or '', '^..(' .. string.rep('%d', 13) .. '[0-8])')
  if not token or sub(token, 1, 6) > era then token = era .. format('%08d', 50000000 + moment / 1000 % 40000000) end
  local client = string.match(sub(record or '', 33, 40), '^[%w_-]+$') or ''
  local mended = '1q' .. token .. since .. '00010p' .. sub(client .. '--------', 1, 8) .. '--------\0' .. route .. '\0'
  call('SET', T .. rid, mended)
  return mended
end

-- section: repeated
-- Of a run that is there already: its state, and whether `record` is of the same task and arguments.
local function repeated(rid, there, record)
  if not there or not is_whole(there) then return 'x', false end
  local of_there, of_record = find(there, '\0', 41, true), find(record, '\0', 41, true)
  return state_now(rid, there), sub(there, 41, of_there) == sub(record, 41, of_record)
end

-- section: era
-- The era in which this server may mint tokens; false from its start until set_era names this very start.
-- Whether anything is paused is read on the way (see paused), whether runs have ever had places, and
-- whether tasks have limits (see turns.lua). INFO is dear (4 us), so a listener is asked for first: lanes listen to
-- at:<run_id> on connections on which they have read that run_id, and those end with the start.
local known_era, any_paused, any_turns, any_limits
local function era()
  if known_era == nil then
    local stored = call('HMGET', P .. 'm', 'era', 'run_id', 'shift', 'paused', 'turns', 'limits')
    any_paused, any_turns, any_limits = stored[4], stored[5], stored[6]
    shift = tonumber(stored[3] or 0) or 0
    known_era = stored[1] and stored[2] and find(stored[1], '^%d%d%d%d%d%d$')
      and (call('PUBSUB', 'NUMSUB', P .. 'at:' .. stored[2])[2] > 0
        or find(call('INFO', 'server'), 'run_id:' .. stored[2], 1, true)) and stored[1] or false
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
  local there = redis.pcall('RPUSHX', key .. route, unpack(entries))
  if type(there) == 'number' and there > 0 then return #entries end
  -- Lists are for people: where another program put something else there, they begin anew, and no run stands still for it.
  local number = redis.pcall('SCARD', routes)
  if type(number) ~= 'number' then call('DEL', routes) elseif number >= 500 then route = '' end
  if type(redis.pcall('RPUSH', key .. route, unpack(entries))) ~= 'number' then
    call('DEL', key .. route)
    call('RPUSH', key .. route, unpack(entries))
  end
  call('EXPIRE', key .. route, 691200)
  call('SADD', routes, route)
  call('EXPIRE', routes, 691200)
  return #entries
end

-- section: counts
-- Count on. What another program wrote over begins anew: it is for people, and no run stands still for it.
local function bump(key, field, by)
  local sum = redis.pcall('HINCRBY', key, field, format('%d', by))
  if type(sum) == 'number' then return sum end
  if find(sum.err, 'WRONGTYPE', 1, true) then call('DEL', key) else call('HDEL', key, field) end
  return call('HINCRBY', key, field, format('%d', by))
end

-- Per minute, kept for three hours: how many runs of a route started (field 'r:<route>'), ended ('c:', 'f:', 'x:', 'k:')
-- or were begun once more by a person or submitted together with others ('s:'; one run for each entry of the lists by
-- hour is counted there, see submitted). Past 3,000 fields, new routes are counted together (route '').
local function tally(kind, route, by)
  local minute, field = P .. 'x:' .. format('%d', moment / 60000), kind .. ':' .. route
  if bump(minute, field, by) ~= by then return end
  if call('HLEN', minute) > 3000 then
    call('HDEL', minute, field)
    bump(minute, kind .. ':', by)
  end
  call('EXPIRE', minute, 10800)
end

-- How many runs of a route run ('r:'), are delayed ('d:') or stand in lists of places ('l:'), and how many entries of a
-- list are stale ('k:' and its place), in hash n,
-- and how many began or ended (see tally): collected here, written once by settle(). A field that came to 0 goes.
local moved, passed = {}, {}
local function add(sums, kind, route, by)
  local routes = sums[kind] or {}
  sums[kind] = routes
  routes[route] = (routes[route] or 0) + by
end

local function count(kind, route, by) add(moved, kind, route, by) end
local function pass(kind, route, by) add(passed, kind, route, by) end

local news, watched = {} -- see note and any_watched

local function settle()
  for kind, routes in pairs(moved) do
    for route, by in pairs(routes) do
      if by ~= 0 and bump(P .. 'n', kind .. route, by) == 0 then
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

-- section: news
-- What clients are told about ended runs, one message per client and call: rid, six digits of length, record (length 0:
-- read it). The first four records ride along; a client reads many for less than it costs to make them one message here.
-- `listener` answers the parts of a client's message; false where nobody listens now: whoever begins to asks for what
-- ended before (watch).
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

-- The clients beside its submitter that wait for a run stand in hash v, 8 characters each; a field '>' and a run there
-- says that other runs wait for it (see after).
local function any_watched()
  if watched == nil then watched = call('EXISTS', P .. 'v') == 1 end
  return watched
end

local function note_watchers(rid, record)
  if not any_watched() then return end
  local found = redis.pcall('HMGET', P .. 'v', rid, '>' .. rid)
  if found.err then return end -- another program wrote to v: who waits asks again one day
  if found[2] and sub(record, 2, 2) ~= 'p' then
    call('HDEL', P .. 'v', '>' .. rid)
    redis.pcall('RPUSH', P .. 'ae', rid)
    call('PUBLISH', P .. 'due', format('%d', moment))
  end
  local clients = found[1]
  if not clients then return end
  call('HDEL', P .. 'v', rid)
  for at = 1, #clients, 8 do
    local parts = listener(sub(clients, at, at + 7))
    if parts then note(parts, rid, record) end
  end
end

-- section: settle
-- include: counts
-- include: news

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
  if byte(record, 31) ~= 48 then
    if flagged(record, DEADLINE) then redis.pcall('ZREM', P .. 'ex', rid) end
    record = with_flags(record, 0, EXPIRED + STORED)
  end
  local ended = '1' .. state .. token .. since .. sub(record, 27, to - 1) .. '\31'
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

-- section: ending
-- What it takes to end a run that waits; put where that is rare, since functions are dear.
-- include: record
-- include: whole
-- include: route
-- include: index
-- include: news
-- include: expiry
-- include: finish
-- include: deadline

-- section: park
-- A run whose effect is in doubt stands still until a person or a probe decides (rerun): it has not ended, keeps its
-- arguments and has no TTL. `key`: of the register that tells. Who waits for it is told; its route.
local function park(rid, record, token, key, started)
  local route, to = route_of(record)
  local parked = '1p' .. token .. since .. sub(record, 27, to - 1) .. '\31' .. started .. key .. sub(record, to)
  call('SET', P .. 't:' .. rid, parked)
  index('e', route, {rid})
  local parts = listener(sub(record, 33, 40))
  if parts then note(parts, rid, parked) end
  note_watchers(rid, parked)
  return route
end
