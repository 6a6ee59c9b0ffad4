#!lua flags=allow-oom
-- pause: let no run of a route, or of a queue, be claimed until it is resumed. What was claimed before goes on.
-- KEYS: prefix
-- ARGV: name pausing
--   name: a route, or '|' and the name of a queue; pausing: 1 to pause, 0 to resume
-- Reply: format, 1 if that changed anything
-- Hash m says whether anything is paused, which is read with the era: who pauses nothing pays nothing.
local changed = call(ARGV[2] == '1' and 'SADD' or 'SREM', P .. 'pa', ARGV[1])
if call('EXISTS', P .. 'pa') == 1 then
  call('HSET', P .. 'm', 'paused', '1')
else
  call('HDEL', P .. 'm', 'paused')
end
if changed == 1 and ARGV[2] == '0' then call('PUBLISH', P .. 'b', 'resumed') end -- idle lanes ask again
return {'1', changed}
