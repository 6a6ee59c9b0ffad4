#!lua flags=allow-oom
-- renew: prolong a session's lease (or open it), end up to 3 sessions whose lease has passed, promote due runs, and
-- offer what is ready to idle lanes, so that a lost message costs no more than a beat.
-- KEYS: prefix
-- ARGV: session lease_ms info opening ttl routes...
--   info: JSON, longer than 64 bytes, with routes and lanes; opening: 1 at the session's first call
-- Reply: format, OK | ERA, alive, draining, ms until the next delayed run is due or the next lease of another session
--   ends (-1: there is neither), rids to cancel, sessions that were ended
-- include: now
-- include: record
-- include: route
-- include: era
if not era() then return {'1', 'ERA', 0, 0, -1, {}, {}} end
local session = ARGV[1]
-- include: index
-- include: settle
-- include: finish
-- include: claim
-- include: offer
-- include: promote
-- include: release
-- include: end_session
local w = P .. 'w:' .. session
local alive = call('HEXISTS', w, '@')
call('ZADD', P .. 's', now() + ARGV[2], session)
if alive == 0 then
  call('HSET', w, '@', ARGV[3])
  if call('EXISTS', P .. 'dr:' .. sub(session, 1, -24)) == 1 then call('HSET', w, '!', '1') end -- without its nonce
  if ARGV[4] == '0' then call('PUBLISH', P .. 'b', 'open') end
end
local reaped = {}
for _, other in ipairs(call('ZRANGEBYSCORE', P .. 's', '-inf', now(), 'LIMIT', 0, 3)) do
  end_session(other, ARGV[5], true)
  reaped[#reaped + 1] = other
end
promote()
for i = 6, #ARGV do offer(ARGV[i]) end
local marks = call('HMGET', w, '!', '~')
local cancelled = {}
for i = 1, #(marks[2] or ''), RID do
  local rid = sub(marks[2], i, i + RID - 1)
  if call('HEXISTS', w, rid) == 1 then cancelled[#cancelled + 1] = rid end
end
if marks[2] then
  if #cancelled > 0 then call('HSET', w, '~', table.concat(cancelled)) else call('HDEL', w, '~') end
end
local leases = call('ZRANGE', P .. 's', 0, 1, 'WITHSCORES')
local next_due = math.min(
  call('ZRANGE', P .. 'd', 0, 0, 'WITHSCORES')[2] or math.huge,
  leases[leases[1] == session and 4 or 2] or math.huge
)
local left = next_due < math.huge and math.max(0, next_due - now()) or -1
settle()
return {'1', 'OK', alive, marks[1] and 1 or 0, left, cancelled, reaped}
