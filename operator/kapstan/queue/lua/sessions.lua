-- Further sections, as in prelude.lua: what becomes of a session's claims, its end, and sessions by name.

-- section: release
-- The claims of a session, of one lane (or of all: lane nil), as {rid, token, since, lane, slots} in the order of
-- submission. slots: what the claim says of limits, nil if nothing.
local function claims_of(session, lane)
  local found, form = {}, '^' .. string.rep('%d', 14) .. string.rep('%x', 10) .. '%d+\30'
  local fields = call('HGETALL', P .. 'w:' .. session)
  for i = 1, #fields, 2 do
    local claim = fields[i + 1]
    if #fields[i] == RID and not find(fields[i], '[^%w_-]') then
      if not find(claim .. '\30', form) then -- another program wrote it: the token that this claim must have had
        local record = call('MGET', T .. fields[i])[1]
        local before = record and is_whole(record) and sub(record, 9, 16) or '49999999'
        claim = (era() or '000000') .. format('%08d', before + 1) .. since
      end
      local slots = find(claim, '\30', 25, true)
      local its_lane = sub(claim, 25, slots and slots - 1 or -1)
      if not lane or its_lane == lane then
        found[#found + 1] = {fields[i], sub(claim, 1, 14), sub(claim, 15, 24), its_lane, slots and sub(claim, slots)}
      end
    end
  end
  table.sort(found, function(a, b) return a[1] < b[1] end)
  return found
end

-- Take claims away from a session. Each run goes back to the front of its list, its token kept so that the next claim
-- mints a greater one; one that was to be cancelled ends instead, unless it is in doubt, and one that was not begun and
-- whose deadline is over.
-- `mark(claim, record)` may change the record first.
-- The caller offers the routes it is answered.
local function release(session, claims, ttl, mark)
  local routes = {}
  for i = #claims, 1, -1 do
    local rid, token, started, _, slots = unpack(claims[i], 1, 5)
    local record = call('MGET', P .. 't:' .. rid)[1]
    if slots then
      -- include: free
    end
    if record and find('qr', state_of(record), 1, true) or record and not is_whole(record) then
      record = whole(rid, record, '')
      local route, _, place = route_of(record)
      count('r:', route, -1)
      if mark then record = mark(claims[i], record) end
      if record and to_cancel(record) and not in_doubt(record) then
        finish(rid, record, 'k', token, '', ttl, session, started)
      elseif record and route == '' then
        finish(rid, record, 'x', token, '', ttl, session, started)
      elseif record and flagged(record, LATE) then
        lapse(rid, sub(record, 1, 2) .. token .. sub(record, 17))
      elseif record then
        local first = true
        -- include: enlist
        call('SETRANGE', P .. 't:' .. rid, 0, '1q' .. token .. since .. sub(record, 27, 31))
        routes[route] = true
      end
    end
    call('HDEL', P .. 'w:' .. session, rid) -- last: a list that is none lets this fail, and nothing is lost
  end
  return routes
end

-- What is noted of a claim of a lane of which nobody says that it did not begin it: of a run of class at_most_once.
local function perhaps_begun(claim, record)
  return byte(record, 32) == 97 and begun(claim[1], record) or record
end

-- What a session said of itself; nil if another program wrote over it.
local function info_of(text)
  local read, info = pcall(cjson.decode, text)
  return read and type(info) == 'table' and type(info.routes) == 'table' and tonumber(info.lanes) and info or nil
end

local function charged(record)
  return sub(record, 1, 26) .. math.min(sub(record, 27, 27) + 1, 9) .. sub(record, 28)
end

-- section: end_session
-- End a session: its runs go back, and none is charged (see lane_died). False: more than 1,000 claims were held, the rest
-- is for the next call.
local function end_session(session, ttl)
  local w = P .. 'w:' .. session
  call('ZADD', P .. 's', 'XX', 0, session) -- first: a user who may not end sessions (access.py) changes nothing
  local info = call('HGET', w, '@')
  local claims = claims_of(session)
  local more = #claims > 1000
  while #claims > 1000 do table.remove(claims) end
  local routes = release(session, claims, ttl, function(claim, record) return begun(claim[1], record) end)
  local served = info and info_of(info)
  for _, route in ipairs(served and served.routes or {}) do
    for lane = 0, math.min(served.lanes, 10000) - 1 do redis.pcall('SREM', P .. 'idle:' .. tostring(route), session .. '|' .. lane) end
  end
  if more then
    call('HDEL', w, '@')
  else
    call('DEL', w)
    call('ZREM', P .. 's', session)
  end
  call('PUBLISH', P .. 'S:' .. session, 'e')
  offer_all(routes)
  return not more
end

-- section: named
-- Whether a session's name begins with `first`, up to the end or a separator.
local function begins(session, first)
  if sub(session, 1, #first) ~= first then return false end
  return find(sub(session, #first, #first + 1), '[._-]') ~= nil or session == first
end
