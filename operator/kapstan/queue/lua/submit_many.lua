#!lua
-- submit_many: accept up to 500 runs, in order.
-- KEYS: prefix
-- ARGV: items...
--   items: run_id, delay_ms and tail (as in submit) of each run
-- Reply: format, one string of two characters a run: state and '0' new, '1' duplicate, '!' conflict
-- include: era
-- include: settle
-- include: claim
-- include: offer
-- include: delay
local answers, batch, batch_route, routes = {}, {}, nil, {}
local function push()
  if #batch > 0 then
    call('RPUSH', P .. 'q:' .. batch_route, unpack(batch))
    routes[batch_route] = true
    batch = {}
  end
end
for i = 1, #ARGV, 3 do
  local rid, delay, tail = ARGV[i], tonumber(ARGV[i + 1]), ARGV[i + 2]
  local record = (delay > 0 and '1d' or '1q') .. '00000000000000' .. since .. tail
  if call('SET', P .. 't:' .. rid, record, 'NX') then
    local route = route_of(record)
    if delay > 0 then
      delay_until(rid, route, now() + delay)
    else
      if route ~= batch_route then
        push()
        batch_route = route
      end
      batch[#batch + 1] = rid
    end
    answers[#answers + 1] = sub(record, 2, 2) .. '0'
  else
    local there = call('GET', P .. 't:' .. rid)
    local same = sub(there, 41, find(there, '\0', 41, true)) == sub(record, 41, find(record, '\0', 41, true))
    answers[#answers + 1] = state_of(there) .. (same and '1' or '!')
  end
end
push()
offer_all(routes)
settle()
return {'1', table.concat(answers)}
