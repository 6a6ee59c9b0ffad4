#!lua flags=no-writes
-- depth: backlog of up to 1,000 routes.
-- KEYS: prefix
-- ARGV: routes...
-- Reply: format, ready, delayed, running, seconds since the oldest ready run became ready (-1: none)
-- Cancelled runs that no claim has skipped yet count as ready.
local ready, delayed, running, oldest = 0, 0, 0, -1
for _, route in ipairs(ARGV) do
  local waiting = call('LLEN', P .. 'q:' .. route)
  local counts = call('HMGET', P .. 'n', 'd:' .. route, 'r:' .. route)
  ready = ready + waiting
  delayed = delayed + (counts[1] or 0)
  running = running + (counts[2] or 0)
  local head = waiting > 0 and call('LINDEX', P .. 'q:' .. route, 0)
  local record = head and call('GET', P .. 't:' .. head)
  if record then oldest = math.max(oldest, (tonumber(since, 16) - tonumber(sub(record, 17, 26), 16)) / 1000) end
end
return {'1', ready, delayed, running, oldest}
