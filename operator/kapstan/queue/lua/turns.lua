-- Further sections, as in prelude.lua: ready runs that have a priority or a group, and tasks that have limits. These are
-- blocks of code, put where they are needed: where nothing has any of that, none of it is run.
--
-- Runs with a priority or a group stand in lists of their own, q:<place>, and zset turn:<route> holds the places of a
-- route that have runs: by priority, then by the turn in which a place was last served. The list of the route itself joins
-- them when runs are taken. Of ten turns nine go to the first place, so by priority and among its groups in a circle; the
-- tenth goes to the place that was not served for longest, so none starves.
--
-- The limits of a task stand in hash lim: 'c:<task>' how many of its runs are held at a time, 'r:<task>' its pace; 'g:' and
-- 'h:' the same for each group. They are those of the session that was opened last. A limit is called <task> or
-- <task>||<group>. Whoever holds a slot of it stands in set cs:<limit> and, for as long as the claim, in the claim's entry
-- of the session's hash; so a slot is free again when the claim is over, whatever ended it. A pace is "<ms between two>
-- <ms by which they may be ahead of that>"; rl:<limit> says when the next one is due that is not ahead. What is not claimed
-- for a limit is taken out of turn: cw:<limit> has the places (of the task's own limit: routes) that wait for it, and zset d
-- its name behind '~' where time makes room. cw:<task>|| has the groups of the limits that have such places; those among
-- them that shall try again, because the numbers are others now, stand in cw:|<task>, and '~|<task>' in d.

-- section: tell_limits
-- What a session that begins says of the limits of its tasks. Where that is new, all that waits for them tries again.
local told = cjson.decode(ARGV[2])
for _, route in ipairs(told.routes) do
  local task = string.match(route, '|(.*)$') or route
  local limits = told.limits and told.limits[task] or {}
  local changed = {}
  for _, kind in ipairs({'c', 'r', 'g', 'h'}) do
    local field, limit = kind .. ':' .. task, limits[kind] and tostring(limits[kind])
    local known = call('HGET', P .. 'lim', field) or nil
    if limit then
      call('HSET', P .. 'lim', field, limit)
      call('HSET', P .. 'm', 'limits', '1')
    elseif known then
      call('HDEL', P .. 'lim', field)
    end
    if limit ~= known then changed[kind] = true end
  end
  if (changed.c or changed.r) and call('EXISTS', P .. 'cw:' .. task) == 1 then call('ZADD', P .. 'd', '0', '~' .. task) end
  if (changed.g or changed.h) and call('EXISTS', P .. 'cw:' .. task .. '||') == 1 then
    redis.pcall('SUNIONSTORE', P .. 'cw:|' .. task, P .. 'cw:|' .. task, P .. 'cw:' .. task .. '||')
    call('DEL', P .. 'cw:' .. task .. '||')
    call('ZADD', P .. 'd', '0', '~|' .. task)
  end
end
any_limits = call('EXISTS', P .. 'lim') == 1 and '1'
if not any_limits then call('HDEL', P .. 'm', 'limits') end

-- section: free
-- The run `rid` holds its slots no more; what waits for them has its turn again. Their routes are added to `routes`, to be
-- offered.
for limit in string.gmatch(slots, '[^\30]+') do
  redis.pcall('SREM', P .. 'cs:' .. limit, rid)
  for _, place in ipairs(redis.pcall('SPOP', P .. 'cw:' .. limit, '100')) do
    local bars = find(place, '||', 1, true)
    local route = bars and sub(place, 1, bars - 1) or place
    if bars and call('EXISTS', P .. 'q:' .. place) == 1 then
      -- include: line_up
    end
    routes[route] = true
  end
  local bars = find(limit, '||', 1, true)
  if bars then
    local more = call('EXISTS', P .. 'cw:' .. limit) == 1
    redis.pcall(more and 'SADD' or 'SREM', P .. 'cw:' .. sub(limit, 1, bars + 1), sub(limit, bars + 2))
  end
end

-- section: limits_of
-- `limits` of `task`: slots, pace, and those of each group; false where there is none; nil as before if there is none at all.
local found = call('HMGET', P .. 'lim', 'c:' .. task, 'r:' .. task, 'g:' .. task, 'h:' .. task)
for i, form in ipairs({'^%d+$', '^%d+%.%d+ %d+%.%d+$', '^%d+$', '^%d+%.%d+ %d+%.%d+$'}) do
  if found[i] and find(found[i], form) then limits = limits or {false, false, false, false} limits[i] = found[i] end
end

-- section: line_up
-- Let `place` of `route` have its turn, if it does not wait for one already.
local turns = P .. 'turn:' .. route
if call('EXISTS', turns) == 0 then
  call('HSET', P .. 'm', 'turns', '1')
  any_turns = '1'
end
if not call('ZSCORE', turns, place) then
  local level = string.match(place, '||(-?%d+)|') or 0
  local turn = redis.pcall('HGET', P .. 'n', 'u:' .. route)
  turn = type(turn) == 'string' and find(turn, '^%d+$') and turn or 0
  call('ZADD', turns, format('%.0f', turn - level * 2^40), place)
end

-- section: enlist
-- Put a ready run, rid, into the list of its place, before the others if it is `first`.
call(first and 'LPUSH' or 'RPUSH', P .. 'q:' .. place, rid)
if place ~= route then
  count('l:', route, 1)
  -- include: line_up
end

-- section: limits
-- From when on the next run is due under a pace, as a slower pace may have said it before: the pace of now makes it at
-- most what it would be had all that may be ahead begun at this moment.
local function due_under(limit, pace)
  local between, ahead = string.match(pace, '(.*) (.*)')
  local due = tonumber(call('GET', P .. 'rl:' .. limit) or 0) or 0
  local latest = now() + between + ahead
  if due > latest + 1 then
    due = latest
    call('SET', P .. 'rl:' .. limit, format('%.3f', due), 'PX', format('%.0f', due - now() + 60000))
  end
  return due, between, ahead
end

-- Whether a limit has no room now; then `place` waits for it.
local function full(limit, slots, pace, place)
  local no_room = slots and call('SCARD', P .. 'cs:' .. limit) >= tonumber(slots)
  if not no_room and pace then
    local due, _, ahead = due_under(limit, pace)
    due = due - ahead
    no_room = due > now()
    if no_room then
      local changed = call('ZADD', P .. 'd', 'CH', format('%d', math.ceil(due)), '~' .. limit)
      if changed == 1 and call('ZRANGE', P .. 'd', 0, 0)[1] == '~' .. limit then call('PUBLISH', P .. 'due', '') end
    end
  end
  if no_room then
    call('SADD', P .. 'cw:' .. limit, place)
    local bars = find(limit, '||', 1, true)
    if bars then redis.pcall('SADD', P .. 'cw:' .. sub(limit, 1, bars + 1), sub(limit, bars + 2)) end
  end
  return no_room
end

-- The run begins under a limit; what its claim says of that.
local function under(limit, slots, pace, rid)
  if pace then
    local due, between = due_under(limit, pace)
    due = math.max(due, now()) + between
    call('SET', P .. 'rl:' .. limit, format('%.3f', due), 'PX', format('%.0f', due - now() + 60000))
  end
  if not slots then return '' end
  call('SADD', P .. 'cs:' .. limit, rid)
  return '\30' .. limit
end

-- section: turns
-- The body of take() for a route that has places, or whose task has limits. Every turn takes one run of a group, or what
-- is wanted of a list without one. Under a limit a run comes alone: what waited in a batch would hold its slot idle.
local turns, served = P .. 'turn:' .. route, 'u:' .. route
local lined = call('EXISTS', turns) == 1
local own = call('EXISTS', P .. 'q:' .. route) == 1
local task = string.match(route, '|(.*)$') or route
local limits
if any_limits and (lined or own) then
  -- include: limits_of
end
if lined or limits then
  -- include: limits
  if limits then
    if full(task, limits[1], limits[2], route) then return {}, {}, false end
    if not empty then return {}, {}, true end
    want = 1
  end
  local rids, records, alone, unread, slots = {}, {}, false, true, nil
  if type(redis.pcall('HEXISTS', P .. 'n', served)) ~= 'number' then call('DEL', P .. 'n') end -- another program wrote to n
  if lined and own and not call('ZSCORE', turns, route) then
    local turn = call('HGET', P .. 'n', served) or ''
    call('ZADD', turns, find(turn, '^%d+$') and turn or '0', route)
  end
  for _ = 1, 2 * want + 100 do
    local turn = math.floor(tonumber(call('HGET', P .. 'n', served) or 0) or 0) + 1
    if not (turn > 0 and turn < 2^40) then turn = 1 end
    local chosen, longest
    local found = lined and call('ZRANGE', turns, '0', '0', 'WITHSCORES') or {unread and route, 0}
    while found[1] do -- from the highest priority to the lowest
      local level = -math.floor(found[2] / 2^40)
      local last = found[2] + level * 2^40
      local strange = not (level > -1000 and level < 1000) -- another program wrote it; after this turn it is right again
      if strange or not chosen or last < longest then chosen, longest = found[1], last end
      if strange or turn % 10 ~= 0 or not lined then break end
      found = call('ZRANGE', turns, format('%.0f', (1 - level) * 2^40), '+inf', 'BYSCORE', 'LIMIT', '0', '1', 'WITHSCORES')
    end
    unread = false
    if not chosen then break end
    local level, group = string.match(chosen, '||(-?%d+)|(.*)$')
    if group == '' then group = nil end
    local limit = limits and group and task .. '||' .. group
    if limit and full(limit, limits[3], limits[4], chosen) then
      call('ZREM', turns, chosen)
    else
      local some, with, last
      some, with, last, unread = take(route, group and 1 or want - #rids, empty and #rids == 0, chosen)
      if #some == 0 and (last or unread) then
        alone = last
        break
      end
      for i = 1, #some do
        rids[#rids + 1] = some[i]
        records[#records + 1] = with[i]
      end
      if chosen ~= route then count('l:', route, -#some) end
      if limits and #some == 1 then
        slots = under(task, limits[1], limits[2], some[1])
        if limit then slots = slots .. under(limit, limits[3], limits[4], some[1]) end
        if slots == '' then slots = nil end
        last = true
      end
      if lined then
        if #some > 0 then call('HSET', P .. 'n', served, format('%d', turn)) end
        if call('EXISTS', P .. 'q:' .. chosen) == 1 then
          call('ZADD', turns, format('%.0f', turn - (level or 0) * 2^40), chosen)
        else
          call('ZREM', turns, chosen)
        end
      end
      alone = last
      if alone or #rids == want then break end
    end
    if not lined then break end
    unread = true -- unless another round says otherwise
  end
  if lined and call('EXISTS', turns) == 0 then call('HDEL', P .. 'n', served) end
  return rids, records, alone, unread and #rids == 0, slots
end
