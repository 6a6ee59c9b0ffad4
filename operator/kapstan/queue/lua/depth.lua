#!lua flags=no-writes
-- depth: backlog of up to 1,000 routes.
-- KEYS: prefix
-- ARGV: routes...
-- Reply: format, ready, delayed, running, seconds since the oldest ready run became ready (-1: none), ready but paused
-- include: era
-- include: paused
local ready, delayed, running, oldest, held_back = 0, 0, 0, -1, 0
local function at_least_0(text) return math.max(0, tonumber(text or 0) or 0) end
any_paused = call('HEXISTS', P .. 'm', 'paused') == 1
for _, route in ipairs(ARGV) do
  local waiting = call('LLEN', P .. 'q:' .. route)
  local counts = call('HMGET', P .. 'n', 'd:' .. route, 'r:' .. route, 'k:' .. route, 'l:' .. route)
  local fresh = math.max(0, waiting - at_least_0(counts[3])) + at_least_0(counts[4]) -- less the entries of cancelled runs
  local halted = paused(route)
  if halted then held_back = held_back + fresh else ready = ready + fresh end
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
return {'1', ready, delayed, running, oldest, held_back}
