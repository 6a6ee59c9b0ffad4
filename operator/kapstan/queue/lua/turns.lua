-- Further sections, as in prelude.lua: ready runs that have a priority or a group. Such runs stand in lists of their own,
-- q:<place>, and zset turn:<route> holds the places of a route that have runs: by priority, then by the turn in which a
-- place was last served. The list of the route itself joins them when runs are taken. Of ten turns nine go to the first
-- place, so by priority and among its groups in a circle; the tenth goes to the place that was not served for longest,
-- so none starves.
-- These are blocks of code, put where they are needed: where nothing has a priority or a group, none of this is run.

-- section: line_up
-- Let `place` of `route` have its turn, if it does not wait for one already.
local turns = P .. 'turn:' .. route
if call('EXISTS', turns) == 0 then
  call('HSET', P .. 'm', 'turns', '1')
  any_turns = '1'
end
if not call('ZSCORE', turns, place) then
  local level = string.match(place, '||(-?%d+)|')
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

-- section: turns
-- The body of take() for a route that has places. Every turn takes one run of a group, or what is wanted of a list
-- without one.
local turns, served = P .. 'turn:' .. route, 'u:' .. route
local rids, records, alone, unread = {}, {}, false, true
if type(redis.pcall('HEXISTS', P .. 'n', served)) ~= 'number' then call('DEL', P .. 'n') end -- another program wrote to n
if call('EXISTS', P .. 'q:' .. route) == 1 and not call('ZSCORE', turns, route) then
  local turn = call('HGET', P .. 'n', served) or ''
  call('ZADD', turns, find(turn, '^%d+$') and turn or '0', route)
end
for _ = 1, 2 * want + 100 do
  local turn = math.floor(tonumber(call('HGET', P .. 'n', served) or 0) or 0) + 1
  if not (turn > 0 and turn < 2^40) then turn = 1 end
  local chosen, longest
  local found = call('ZRANGE', turns, '0', '0', 'WITHSCORES')
  while found[1] do -- from the highest priority to the lowest
    local level = -math.floor(found[2] / 2^40)
    local last = found[2] + level * 2^40
    local strange = not (level > -1000 and level < 1000) -- another program wrote it; after this turn it is right again
    if strange or not chosen or last < longest then chosen, longest = found[1], last end
    if strange or turn % 10 ~= 0 then break end
    found = call('ZRANGEBYSCORE', turns, format('%.0f', (1 - level) * 2^40), '+inf', 'WITHSCORES', 'LIMIT', '0', '1')
  end
  if not chosen then
    unread = false
    break
  end
  local level = string.match(chosen, '||(-?%d+)|') or 0
  local one = chosen ~= route and sub(chosen, -1) ~= '|' -- of a group
  local some, with, last
  some, with, last, unread = take(route, one and 1 or want - #rids, empty and #rids == 0, chosen)
  if #some == 0 and (last or unread) then
    alone = last
    break
  end
  for i = 1, #some do
    rids[#rids + 1] = some[i]
    records[#records + 1] = with[i]
  end
  if chosen ~= route then count('l:', route, -#some) end
  if #some > 0 then call('HSET', P .. 'n', served, format('%d', turn)) end
  if call('EXISTS', P .. 'q:' .. chosen) == 1 then
    call('ZADD', turns, format('%.0f', turn - level * 2^40), chosen)
  else
    call('ZREM', turns, chosen)
    if call('EXISTS', turns) == 0 then call('HDEL', P .. 'n', served) end
  end
  alone = last
  if alone or #rids == want then break end
  unread = true -- unless another round says otherwise
end
return rids, records, alone, unread and #rids == 0
