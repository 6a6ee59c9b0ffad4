#!lua flags=allow-oom
-- watch: which of these runs have ended, are parked, or are not known (any more); this client will be told when the others end.
-- KEYS: prefix
-- ARGV: client ttl run_ids...
-- Reply: format, rid and record of each that has ended or is parked; an empty record: the queue does not know the run,
--   ms until a run may have to be ended because its deadline is over (-1: there is none)
-- Where no worker is, whoever waits ends them.
-- A run's submitter is told anyway; any other client is written down with the run.
local deadline = -1
if call('EXISTS', P .. 'ex') == 1 then
  -- include: now
  -- include: record
  -- include: whole
  -- include: route
  -- include: index
  -- include: settle
  -- include: expiry
  -- include: finish
  -- include: deadline
  -- include: withdraw
  -- include: sure
  -- include: overdue
  stay = ARGV[2]
  deadline = end_overdue()
  settle()
end
local answer, keys = {}, {}
for i = 3, #ARGV do keys[#keys + 1] = P .. 't:' .. ARGV[i] end
local records = #keys > 0 and call('MGET', unpack(keys)) or {}
for i, record in ipairs(records) do
  local rid = ARGV[i + 2]
  if not record or not find('qdr', sub(record, 2, 2), 1, true) or #record < 41 then -- it ended, is parked, or is no record
    answer[#answer + 1] = rid
    answer[#answer + 1] = record or ''
  elseif sub(record, 33, 40) ~= ARGV[1] then
    local clients = redis.pcall('HGET', P .. 'v', rid) or ''
    if type(clients) ~= 'string' then -- another program wrote to v
      call('DEL', P .. 'v')
      clients = ''
    end
    local there = false
    for at = 1, #clients, 8 do there = there or sub(clients, at, at + 7) == ARGV[1] end
    if not there then call('HSET', P .. 'v', rid, clients .. ARGV[1]) end
  end
end
return {'1', answer, deadline}
