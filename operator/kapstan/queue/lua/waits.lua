-- Further sections, as in prelude.lua: deadlines to begin, runs that wait for runs, and the end of one that waits.

-- section: sure
-- A command on a key whose loss costs less than a standstill: where another program put something else, it begins anew.
local function sure(command, key, ...)
  local answer = redis.pcall(command, key, ...)
  if type(answer) ~= 'table' or not answer.err then return answer end
  call('DEL', key)
  return call(command, key, ...)
end

-- section: deadline
-- A run that was not begun by its deadline (zset ex, by now()) ends as cancelled, with the flag EXPIRED; it was never
-- held.
local function is_over(rid, record)
  if flagged(record, LATE) then return true end
  local deadline = flagged(record, DEADLINE) and redis.pcall('ZSCORE', P .. 'ex', rid)
  return type(deadline) == 'string' and tonumber(deadline) <= now()
end

local function lapse(rid, record)
  redis.pcall('ZREM', P .. 'ex', rid)
  return finish(rid, with_flags(record, EXPIRED), 'k', token_of(record), '', stay)
end

-- Its deadline counts no more: it was begun, or may have been. The record as it is then, which notes that of class
-- at_most_once; `known`: what it did is known, its register is released.
local function begun(rid, record, known)
  local noted = byte(record, 32) == 97 and not known and 16 or 0
  if byte(record, 31) == 48 + noted then return record end
  redis.pcall('ZREM', P .. 'ex', rid)
  return with_flags(record, noted, CANCEL + STORED)
end

-- section: expires
-- These runs must begin within `ms`; supervisors are told when no deadline was earlier.
local function set_deadline(rids, ms)
  local deadline = format('%.0f', now() + ms)
  for _, rid in ipairs(rids) do sure('ZADD', P .. 'ex', deadline, rid) end
  if rids[1] and call('ZRANGE', P .. 'ex', 0, 0)[1] == rids[1] then call('PUBLISH', P .. 'due', deadline) end
end

-- section: after
-- Runs that wait for other runs are delayed, until never (FAR). 'af:<run>' lists who waits for a run; hash aw has for
-- each that waits which have not completed (each with ',' before it), and ('@') from when it may start. An entry of af of
-- whom aw does not say that is stale: the run was replaced. The end of a run puts it into list ae.
-- Whether the others ended well decides the worker: once one ended otherwise, who waits for it starts, to end so.
local FAR = '9000000000000000'

-- Let these runs wait for those in `after`, until `due` at least. False: there is nothing to wait for.
local function wait_for(rids, after, due)
  local open = {}
  for at = 1, #after, 22 do
    local other = sub(after, at, at + 21)
    local state = redis.pcall('GETRANGE', T .. other, 1, 1)
    if type(state) ~= 'string' or find('fxk', state, 1, true) then return false end -- not known, too: ''
    if state ~= 'c' then open[#open + 1] = other end
  end
  if #open == 0 then return false end
  for _, rid in ipairs(rids) do call('ZADD', P .. 'd', FAR, rid) end
  for _, other in ipairs(open) do
    sure('HSET', P .. 'v', '>' .. other, '1')
    sure('RPUSH', P .. 'af:' .. other, unpack(rids))
  end
  for _, rid in ipairs(rids) do
    sure('HSET', P .. 'aw', rid, ',' .. table.concat(open, ','))
    if due then sure('HSET', P .. 'aw', '@' .. rid, due) end
  end
  return true
end

-- section: withdraw
-- Take a run that waits (state q, held by nobody, or d) out of where it waits. An entry in the middle of a list stays
-- there, counted as stale, until a claim comes by and drops it.
local function withdraw(rid, record)
  local route, _, place = route_of(record)
  if state_of(record) == 'd' then
    call('ZREM', P .. 'd', rid)
    redis.pcall('HDEL', P .. 'aw', rid, '@' .. rid)
    count('d:', route, -1)
    return
  end
  local list = P .. 'q:' .. place
  if place ~= route then count('l:', route, -1) end
  if call('LINDEX', list, 0) == rid then
    call('LPOP', list)
  elseif call('LINDEX', list, -1) == rid then
    call('RPOP', list)
  else
    count('k:', place, 1)
  end
end

-- section: overdue
-- End the runs whose deadline is over and that wait, at most 100. Of one that a session holds it is noted: should it
-- come back unbegun, it ends then. Milliseconds until the next deadline; -1: there is none.
local function end_overdue()
  local overdue = sure('ZRANGEBYSCORE', P .. 'ex', '-inf', format('%d', now()), 'LIMIT', '0', '100')
  local held = {}
  for _, session in ipairs(#overdue > 0 and call('ZRANGE', P .. 's', 0, 9999) or {}) do
    for i, claim in ipairs(call('HMGET', P .. 'w:' .. session, unpack(overdue))) do held[i] = held[i] or claim end
  end
  for i, rid in ipairs(overdue) do
    local record = #rid == RID and redis.pcall('GET', T .. rid)
    local waits = type(record) == 'string' and is_whole(record) and flagged(record, DEADLINE) and find('qrd', state_of(record), 1, true)
    if not waits then
      redis.pcall('ZREM', P .. 'ex', rid)
    elseif held[i] then
      call('SETRANGE', T .. rid, 30, sub(with_flags(record, LATE, CANCEL + STORED), 31, 31))
      redis.pcall('ZREM', P .. 'ex', rid)
    else
      withdraw(rid, record)
      lapse(rid, record)
    end
  end
  local first = call('ZRANGE', P .. 'ex', 0, 0, 'WITHSCORES')[2]
  if not first then return -1 end
  return #overdue == 100 and 0 or math.max(100, first - now()) -- many at a time
end
