#!lua
-- submit_many: accept up to 500 runs of one route, in order.
-- KEYS: prefix
-- ARGV: delay_ms place ttl expires_ms after items...
--   place: of their ready list, see route_of; ttl, expires_ms, after: as in submit; items: run_id and record of each run; no run_id stands there twice
-- Reply: format, one string of two characters a run: state and '0' new, '1' duplicate, '!' conflict
-- Runs that are all new are written by one command, which costs a quarter of one command each. The records come whole,
-- with a moment that the client took of this server's clock: Lua would hash each that it put together, byte by byte.
-- include: index
-- include: settle
local place, state = ARGV[2], ARGV[1] == '0' and 'q' or 'd'
local bars = find(place, '||', 1, true)
local route = bars and sub(place, 1, bars - 1) or place
local written, fresh, answer = {}, {}, nil
for i = 6, #ARGV, 2 do
  local rid = ARGV[i]
  written[i - 5] = T .. rid
  written[i - 4] = ARGV[i + 1]
  fresh[(i - 4) / 2] = rid
end
if call('MSETNX', unpack(written)) == 1 then
  answer = string.rep(state .. '0', #fresh)
else
  -- include: record
  -- include: whole
  -- include: holder
  -- include: repeated
  local answers = {}
  fresh = {}
  for i = 1, #written, 2 do
    if call('SETNX', written[i], written[i + 1]) == 1 then
      fresh[#fresh + 1] = ARGV[i + 5]
      answers[#answers + 1] = state .. '0'
    else
      local there, same = repeated(ARGV[i + 5], call('MGET', written[i])[1], written[i + 1])
      answers[#answers + 1] = there .. (same and '1' or '!')
    end
  end
  answer = table.concat(answers)
end
-- Another program wrote to the list: what was not accepted must not stay.
local function none_of(rids)
  for _, rid in ipairs(rids) do call('DEL', T .. rid) end
  error({err = 'WRONGTYPE another program wrote to q:' .. route .. ' or d'})
end
if #fresh > 0 then pass('s', route, #fresh - index('i', route, fresh)) end
if ARGV[4] ~= '' then
  -- include: now
  -- include: sure
  -- include: expires
  set_deadline(fresh, ARGV[4])
end
local waits = false
if ARGV[5] ~= '' and #fresh > 0 then
  -- include: now
  -- include: sure
  -- include: after
  local done, found = pcall(wait_for, fresh, ARGV[5], state == 'd' and format('%.0f', now() + ARGV[1]))
  if not done then none_of(fresh) end
  waits = found
end
if waits then
  for _, rid in ipairs(fresh) do call('SETRANGE', T .. rid, 1, 'd') end
  answer = string.gsub(answer, 'q0', 'd0')
  count('d:', route, #fresh)
elseif #fresh > 0 and state == 'd' then
  -- include: now
  -- include: delay
  local due = now() + ARGV[1]
  if type(redis.pcall('ZCARD', P .. 'd')) ~= 'number' then none_of(fresh) end
  for _, rid in ipairs(fresh) do delay_until(rid, route, due) end
elseif #fresh > 0 then
  -- include: now
  -- include: record
  -- include: whole
  -- include: route
  -- include: era
  -- include: paused
  -- include: expiry
  -- include: finish
  -- include: deadline
  stay = ARGV[3]
  -- include: claim
  -- include: offer
  if type(redis.pcall('RPUSH', P .. 'q:' .. place, unpack(fresh))) ~= 'number' then none_of(fresh) end
  if bars then
    count('l:', route, #fresh)
    -- include: line_up
  end
  offer(route)
end
settle()
return {'1', answer}
