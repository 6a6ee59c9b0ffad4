#!lua flags=allow-oom
-- renew: say that a session lives (or open it), end sessions that the caller saw silent for their lease, promote due
-- runs, and offer what is ready to idle lanes, so that a lost message costs no more than a beat.
-- KEYS: prefix
-- ARGV: session info opening ttl seen dead rest...
--   info: JSON, longer than 64 bytes, with routes, lanes, lease (ms) and limits of tasks (see turns.lua); opening: 1 at the session's first call
--   seen: number of the caller's renewal before (-1: none); dead: how many sessions are to be ended
--   rest: name and number of each of those: it ends only if it has not renewed since; then the routes
-- Reply: format, OK, alive, draining, ms until the next delayed run or deadline is due (-1: there is none), rids to cancel, sessions
--   that were ended, number of this renewal, era, sessions that have not renewed since `seen` (name, number, lease in ms)
--   or: format, ERA, run_id of this start of the server, the era in force before (see set_era)
-- Renewals are numbered through; a session's score in s is the number of its last. The clock of the namespace (now)
-- never goes back: where the server's does, the difference is kept in m.
-- include: now
-- include: record
-- include: doubt
-- include: whole
-- include: route
-- include: era
-- include: paused
if not era() then
  local before = call('HGET', P .. 'm', 'era') or ''
  before = find(before, '^%d%d%d%d%d%d$') and before or '000000' -- another program may have written it
  return {'1', 'ERA', string.match(call('INFO', 'server'), 'run_id:(%x+)'), before}
end
local session, seen, routes_at = ARGV[1], tonumber(ARGV[5]), 7 + 2 * ARGV[6]
-- include: index
-- include: settle
-- include: expiry
-- include: finish
-- include: deadline
-- include: claim
-- include: offer
-- include: sure
-- include: set_free
-- include: promote
-- include: withdraw
-- include: overdue
-- include: release
-- include: end_session
stay = ARGV[4]
for _, field in ipairs({'clock', 'shift', 'beat'}) do -- what another program wrote there begins anew
  local text = call('HGET', P .. 'm', field)
  if text and not find(text, '^%-?%d%d?%d?%d?%d?%d?%d?%d?%d?%d?%d?%d?%d?%d?%d?$') then
    call('HDEL', P .. 'm', field)
    if field == 'shift' then shift = 0 end
    local last = field == 'beat' and call('ZRANGE', P .. 's', 0, 0, 'REV', 'WITHSCORES')[2] -- numbers never go back
    if last then call('HSET', P .. 'm', field, format('%d', math.min(math.max(tonumber(last) or 0, 0), 1e14))) end
  end
end
local clock = tonumber(call('HGET', P .. 'm', 'clock') or 0)
local ahead = now() - clock
if ahead < 0 or (shift > 0 and ahead > 60000) then -- the clock was set back; or it was, and is right again
  shift = shift - (ahead < 0 and ahead or math.min(shift, ahead))
  call('HSET', P .. 'm', 'shift', format('%d', shift))
end
call('HSET', P .. 'm', 'clock', format('%d', math.max(now(), clock)))
local w = P .. 'w:' .. session
local alive, number = call('HEXISTS', w, '@'), call('HINCRBY', P .. 'm', 'beat', 1)
call('ZADD', P .. 's', number, session)
call('HSET', w, '=', format('%d', moment))
if alive == 0 then
  call('HSET', w, '@', ARGV[2])
  -- include: tell_limits
  if call('EXISTS', P .. 'dr:' .. sub(session, 1, -24)) == 1 then call('HSET', w, '!', '1') end -- without its nonce
  if ARGV[3] == '0' then call('PUBLISH', P .. 'b', 'open') end
end
local ended = {}
for i = 7, routes_at - 1, 2 do
  if ARGV[i] ~= session and tonumber(call('ZSCORE', P .. 's', ARGV[i]) or -1) == tonumber(ARGV[i + 1]) then
    end_session(ARGV[i], ARGV[4])
    ended[#ended + 1] = ARGV[i]
  end
end
local deadline = end_overdue()
set_free()
-- include: due
if #due_now > 0 then promote(due_now) end
for i = routes_at, #ARGV do offer(ARGV[i]) end
local marks = call('HMGET', w, '!', '~')
local cancelled = {}
for i = 1, #(marks[2] or ''), RID do
  local rid = sub(marks[2], i, i + RID - 1)
  local record = call('HEXISTS', w, rid) == 1 and redis.pcall('GET', T .. rid) -- a person may have begun it anew since
  if type(record) == 'string' and is_whole(record) and to_cancel(record) then cancelled[#cancelled + 1] = rid end
end
if marks[2] then
  if #cancelled > 0 then call('HSET', w, '~', table.concat(cancelled)) else call('HDEL', w, '~') end
end
local silent = {}
local others = call('ZRANGEBYSCORE', P .. 's', '-inf', seen, 'WITHSCORES', 'LIMIT', 0, 100)
for i = 1, #others, 2 do
  if #others[i] > 200 or not find(others[i], '^[%w._-]+$') then
    call('ZREM', P .. 's', others[i]) -- the name of no session
  elseif not find(others[i + 1], '^%d+$') then
    call('ZADD', P .. 's', 0, others[i]) -- the number of no renewal: one that lives says its own
  else
    local info = call('HGET', P .. 'w:' .. others[i], '@') -- none: it is being ended
    local lease = info and tonumber((info_of(info) or {}).lease or 10000) or info and 10000 or 0
    silent[#silent + 1] = others[i]
    silent[#silent + 1] = others[i + 1]
    silent[#silent + 1] = math.max(0, math.min(lease, 86400000))
  end
end
local first = call('ZRANGE', P .. 'd', 0, 0, 'WITHSCORES')[2]
local due = first and first - now() < 1e14 and math.max(0, first - now()) or deadline -- else: it waits for a run
if call('EXISTS', P .. 'ae') == 1 then due = 0 end
if deadline >= 0 and due >= 0 then due = math.min(due, deadline) end
settle()
return {'1', 'OK', alive, marks[1] and 1 or 0, math.min(due, 86400000), cancelled, ended, number, era(), silent}
