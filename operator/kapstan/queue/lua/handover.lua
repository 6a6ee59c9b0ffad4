-- Further sections, as in prelude.lua: how runs get from the ready lists to lanes.

-- section: paused
-- Whether a person has paused the route, or its queue ('|' and its name in set pa). After era().
local function paused(route)
  if not any_paused then return false end
  local bar = find(route, '|', 1, true)
  local found = call('SMISMEMBER', P .. 'pa', route, '|' .. (bar and sub(route, 1, bar - 1) or 'default'))
  return found[1] == 1 or found[2] == 1
end

-- section: hold
-- Give the runs that take() answered to a lane: mints their tokens, which it answers. Most runs of a call have the same
-- epoch, so what is made of it is made once. `slots`: see take.
local function hold(session, lane, route, rids, records, slots)
  local tail = slots and lane .. slots or lane
  local fields, tokens, holders, minted = {}, {}, {}, {}
  for i = 1, #rids do
    local epoch = sub(records[i], 9, 16)
    local token = minted[epoch]
    if not token then
      token = era() .. format('%08d', epoch + 1)
      minted[epoch], holders[epoch] = token, token .. since .. tail
    end
    fields[2 * i - 1], fields[2 * i], tokens[i] = rids[i], holders[epoch], token
  end
  call('HSET', P .. 'w:' .. session, unpack(fields))
  count('r:', route, #rids)
  pass('r', route, #rids)
  return tokens
end

-- section: claim
-- include: hold
-- Take up to `want` ready runs off a route's list: rids and their records. Entries that are stale (cancelled
-- meanwhile, or standing there twice) are dropped, at most 5,000 a call; runs whose deadline is over end, at most 100. A
-- run of another class than pure comes alone.
-- Then: true if that is so, or it is next, and nothing else may be claimed now; true if the list was not looked through.
-- What another program wrote is no run of this list (dropped) or no record (set aside, see there: it is claimed as pure).
-- A run stands twice where it was cancelled and began anew (by a person, or its id was used again). As its first entry is
-- counted as stale until it is popped, that is known: then the claim is written into the record, too.
-- `place`: of the list that is meant; nil: of all that the route has, by turns and within the limits of its task; then
-- the last answer is what the claim's entry says of slots.
local function take(route, want, empty, place)
  if not place and (any_turns or any_limits) then
    -- include: turns
  end
  place = place or route
  local list, rids, records, size, stale, ask = P .. 'q:' .. place, {}, {}, 0, 0, want
  local between, sound = '\0' .. place .. '\0', {}
  local overdue = 0
  local seen -- the runs that were taken, where a run may stand twice
  local function put_back(popped, from)
    local back = {}
    for i = #popped, from, -1 do back[#back + 1] = popped[i] end
    if #back > 0 then call('LPUSH', list, unpack(back)) end
    local known = stale > 0 and tonumber(call('HGET', P .. 'n', 'k:' .. place) or 0) or 0 -- others may put in what they like
    if known > 0 then count('k:', place, -math.min(stale, known)) end
  end
  while size < want and stale < 5000 do
    local popped = call('LPOP', list, format('%d', ask))
    if not popped then
      if stale > 0 then call('HDEL', P .. 'n', 'k:' .. place) end -- an empty list has none
      return rids, records, false
    end
    if seen == nil then
      seen = redis.pcall('HEXISTS', P .. 'n', 'k:' .. place)
      if type(seen) ~= 'number' then call('DEL', P .. 'n') end -- another program wrote to n
      seen = seen == 1 and {}
    end
    local names = {}
    local foreign = find(table.concat(popped), '[^%w_-]')
    for i = 1, #popped do names[i] = T .. popped[i] end
    local found = call('MGET', unpack(names))
    for i = 1, #popped do
      local rid, record = popped[i], found[i]
      local ready = false
      if record then -- as is_whole, but most runs of a call share these parts, so each is looked at once
        local form, state = byte(record, 1, 2)
        local epoch, counts, at = sub(record, 9, 16), sub(record, 27, 32), find(record, '\0', 41, true)
        if sound[epoch] == nil then sound[epoch] = find(epoch, '^%d%d%d%d%d%d%d%d$') and epoch ~= '99999999' end
        if sound[counts] == nil then sound[counts] = find(counts, '^%d%d%d%d[0-o][piat]$') ~= nil end
        ready = form == 49 and state == 113 and sound[epoch] and sound[counts]
          and at and sub(record, at, at + #between - 1) == between -- of this list
      end
      if #rid ~= RID or foreign and find(rid, '[^%w_-]') then
        ready = false
      elseif not ready and (record or call('EXISTS', names[i]) == 1) then
        -- include: whole
        if not record or not is_whole(record) then record, ready = whole(rid, record, place), true end
      end
      local lapsed = false
      if ready and byte(record, 31) ~= 48 then
        -- include: ending
        lapsed = is_over(rid, record)
        if lapsed and overdue < 100 then lapse(rid, record) end
      end
      if lapsed then
        if overdue == 100 then
          put_back(popped, i)
          return rids, records, false, size == 0
        end
        overdue = overdue + 1
        if place ~= route then count('l:', route, -1) end
      elseif ready and not (seen and seen[rid]) then
        local alone = byte(record, 32) ~= 112 -- p
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
    ask = stale + overdue > 0 and 500 or want - size
  end
  put_back({}, 1)
  return rids, records, false, size == 0
end

-- section: give
-- The next idle lane that serves `route`: session, lane. Stale entries are dropped on the way. Where a claim may use up a
-- turn of a group or of a rate, the lane must listen, too: its process may be gone, and turns are not given back.
local function idle_lane(route)
  for _ = 1, 10000 do
    local member = redis.pcall('SPOP', P .. 'idle:' .. route)
    if type(member) == 'table' then call('DEL', P .. 'idle:' .. route) end -- another program wrote there
    if type(member) ~= 'string' then return nil end
    local session, lane = string.match(member, '^(.*)|(%d+)$')
    local marks = session and call('HMGET', P .. 'w:' .. session, '@', '!', '#' .. lane)
    if marks and marks[1] and not marks[2] and marks[3] then
      local gone = (any_turns or any_limits) and call('PUBSUB', 'NUMSUB', P .. 'l:' .. session .. ':' .. lane)[2] == 0
      if not gone then return session, lane end
      call('HDEL', P .. 'w:' .. session, '#' .. lane)
    end
  end
  return nil
end

-- Give a run to an idle lane, with its claim in the message; whether it listens. A lane that does not (0 receivers) is
-- idle no more, and the run stands first in its list with the epoch that was spent: it is one of the route's own list, see
-- idle_lane.
local function give(session, lane, route, rids, records, slots)
  local rid, record = rids[1], records[1]
  call('HDEL', P .. 'w:' .. session, '#' .. lane)
  local token = hold(session, lane, route, rids, records, slots)[1]
  local claim = 'c' .. rid .. token .. sub(record, 1, 16) .. since .. sub(record, 27)
  if call('PUBLISH', P .. 'l:' .. session .. ':' .. lane, claim) > 0 then return true end
  call('SETRANGE', T .. rid, 1, 'q' .. token)
  call('HDEL', P .. 'w:' .. session, rid)
  call('LPUSH', P .. 'q:' .. route, rid)
  count('r:', route, -1)
  pass('r', route, -1)
  return false
end

-- section: offer
-- include: give
-- Hand the ready runs of a route to idle lanes. What one call cannot hand over, the lanes fetch: all are asked to step
-- again.
local function offer(route)
  local list = P .. 'q:' .. route
  for _ = 1, 1000 do
    if call('EXISTS', P .. 'idle:' .. route) == 0 or not era() then return end
    if call('EXISTS', list) == 0 and not (any_turns and call('EXISTS', P .. 'turn:' .. route) == 1) or paused(route) then return end
    local session, lane = idle_lane(route)
    if not session then return end
    local rids, records, _, more, slots = take(route, 1, true)
    if not rids[1] then
      call('SADD', P .. 'idle:' .. route, session .. '|' .. lane)
      if more then break end
      return
    end
    give(session, lane, route, rids, records, slots)
  end
  call('PUBLISH', P .. 'b', 'more')
end

local function offer_all(routes)
  for route in pairs(routes) do offer(route) end
end

-- section: set_free
-- Make due what waited for runs that have ended, at most 100. An entry of a run that waits no more, or for others now, is
-- dropped.
local function set_free()
  for _ = 1, 100 do
    local ended = sure('LINDEX', P .. 'ae', 0)
    if not ended then return end
    local rid = sure('LPOP', P .. 'af:' .. ended)
    local open = rid and sure('HGET', P .. 'aw', rid)
    local at = open and find(open, ',' .. ended, 1, true)
    if not rid then
      call('LPOP', P .. 'ae')
    elseif at and #open > 1 + RID and redis.pcall('GETRANGE', T .. ended, 1, 1) == 'c' then
      redis.pcall('HSET', P .. 'aw', rid, sub(open, 1, at - 1) .. sub(open, at + 1 + RID))
    elseif at or open and sub(open, 1, 1) ~= ',' then -- the last, one that did not complete; or another program wrote to aw
      local due = call('HGET', P .. 'aw', '@' .. rid)
      call('HDEL', P .. 'aw', rid, '@' .. rid)
      redis.pcall('ZADD', P .. 'd', 'XX', due and find(due, '^%d+$') and due or format('%d', now()), rid)
    end
  end
end

-- section: due
-- Up to 100 of the runs that are due.
local due_now = call('ZRANGEBYSCORE', P .. 'd', '-inf', format('%d', now()), 'LIMIT', '0', '100')

-- section: promote
-- Move the runs that are due to their ready lists and offer them.
local function promote(due)
  -- include: ending
  local routes = {}
  for _, rid in ipairs(due) do
    local record = call('MGET', P .. 't:' .. rid)[1]
    local more = false
    if sub(rid, 1, 1) == '~' then -- a limit that has room again
      local slots = sub(rid, 2)
      if sub(slots, 1, 1) == '|' then -- those of groups of a task, see tell_limits
        local groups = redis.pcall('SPOP', P .. 'cw:' .. slots, '100')
        for i, group in ipairs(groups) do groups[i] = sub(slots, 2) .. '||' .. group end
        more = #groups == 100
        slots = table.concat(groups, '\30')
      end
      -- include: free
    elseif record and not is_whole(record) then
      finish(rid, whole(rid, record, ''), 'x', '00000000000000', '', 86400)
    elseif record and state_of(record) == 'd' then
      local route, _, place = route_of(record)
      local first = false
      -- include: enlist
      call('SETRANGE', P .. 't:' .. rid, 1, 'q' .. token_of(record) .. since)
      count('d:', route, -1)
      routes[route] = true
    end
    if more then call('PUBLISH', P .. 'due', '') else call('ZREM', P .. 'd', rid) end
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
