#!lua flags=no-writes
-- depth: backlog of up to 1,000 routes.
-- KEYS: prefix
-- ARGV: routes...
-- Reply: format, ready, delayed, running, seconds since the oldest ready run became ready (-1: none), ready but paused, ready
--   but beyond what the limits of their tasks and groups let begin now
-- include: now
-- include: era
-- include: paused
local ready, delayed, running, oldest, held_back, limited = 0, 0, 0, -1, 0, 0
local function at_least_0(text) return math.max(0, tonumber(text or 0) or 0) end
local marks = call('HMGET', P .. 'm', 'paused', 'limits')
any_paused, any_limits = marks[1], marks[2]

-- How many runs may begin now under a limit: asked once, less those that were counted since.
local rooms = {}
local function taken(limit, slots, pace, wanted)
  local room = rooms[limit]
  if not room then
    room = slots and slots - at_least_0(redis.pcall('SCARD', P .. 'cs:' .. limit)) or math.huge
    if pace then
      local between, ahead = string.match(pace, '(.*) (.*)')
      local due = redis.pcall('GET', P .. 'rl:' .. limit)
      local early = math.max(0, (type(due) == 'string' and tonumber(due) or 0) - now())
      room = math.min(room, math.floor((ahead - early) / between + 1e-6) + 1)
    end
    room = math.max(0, room)
  end
  local most = math.min(room, wanted)
  rooms[limit] = room - most
  return most
end

-- How many of a route's ready runs may begin now. Of groups the first 1,000 that have their turn are looked at; of the
-- others one run each is counted. Those that are out of turn wait for their limit.
local function within(route, own, fresh)
  local task = string.match(route, '|(.*)$') or route
  local limits
  -- include: limits_of
  if not limits then return fresh end
  local most = fresh
  if limits[3] or limits[4] then
    most = own
    local turns = P .. 'turn:' .. route
    for _, place in ipairs(redis.pcall('ZRANGE', turns, '0', '999')) do
      local group = string.match(place, '||%-?%d+|(.*)$')
      local there = group and at_least_0(redis.pcall('LLEN', P .. 'q:' .. place)) or 0
      if group and group ~= '' then there = taken(task .. '||' .. group, limits[3], limits[4], there) end
      most = most + there
    end
    most = math.min(fresh, most + math.max(0, at_least_0(redis.pcall('ZCARD', turns)) - 1000))
  end
  if limits[1] or limits[2] then most = taken(task, limits[1], limits[2], most) end
  return most
end

for _, route in ipairs(ARGV) do
  local waiting = call('LLEN', P .. 'q:' .. route)
  local counts = call('HMGET', P .. 'n', 'd:' .. route, 'r:' .. route, 'k:' .. route, 'l:' .. route)
  local own = math.max(0, waiting - at_least_0(counts[3])) -- less the entries of cancelled runs
  local fresh = own + at_least_0(counts[4])
  local halted = paused(route)
  if halted then
    held_back = held_back + fresh
  else
    local most = any_limits and fresh > 0 and within(route, own, fresh) or fresh
    ready, limited = ready + most, limited + fresh - most
    halted = most == 0
  end
  delayed = delayed + at_least_0(counts[1])
  running = running + at_least_0(counts[2])
  for _, place in ipairs(counts[4] and not halted and call('ZRANGE', P .. 'turn:' .. route, '0', '9') or {}) do
    local rid = place ~= route and call('LINDEX', P .. 'q:' .. place, '0')
    local record = rid and call('GETRANGE', P .. 't:' .. rid, 0, 25) or ''
    local ago = sub(record, 2, 2) == 'q' and tonumber(sub(record, 17, 26), 16)
    if ago then oldest = math.max(oldest, 0, (tonumber(since, 16) - ago) / 1000) end
  end
  for _, rid in ipairs(waiting > 0 and not halted and call('LRANGE', P .. 'q:' .. route, 0, counts[3] and 99 or 0) or {}) do
    local record = call('GETRANGE', P .. 't:' .. rid, 0, 25)
    local ago = sub(record, 2, 2) == 'q' and tonumber(sub(record, 17, 26), 16)
    if ago then
      oldest = math.max(oldest, 0, (tonumber(since, 16) - ago) / 1000)
      break
    end
  end
end
return {'1', ready, delayed, running, oldest, held_back, limited}
