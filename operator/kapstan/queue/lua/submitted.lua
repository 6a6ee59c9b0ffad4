#!lua flags=no-writes
-- submitted: how many entries of up to 100 routes were submitted in each of some minutes of one hour: a run each, and
-- the first of those that were submitted together (the rest of them are in x, see settle).
-- KEYS: prefix
-- ARGV: minute minutes routes...
--   minute: the first of them, in minutes since 1970
-- Reply: format, one number a minute of the first route, then of the next
-- A list by hour is in the order of time, so where a minute begins in it is found by halving: a submit counts nothing.
local first, minutes, answer = tonumber(ARGV[1]), tonumber(ARGV[2]), {}
for i = 3, #ARGV do
  local list = P .. 'i:' .. math.floor(first / 60) .. ':' .. ARGV[i]
  local size = call('LLEN', list)
  local before
  for minute = first % 60, first % 60 + minutes do
    local low, high = before or 0, size -- the place of the first entry that is not older
    while low < high do
      local middle = math.floor((low + high) / 2)
      local entry = call('LINDEX', list, middle)
      if #entry >= 3 and struct.unpack('>I3', entry) < minute * 60000 then
        low = middle + 1
      else
        high = middle
      end
    end
    if before then answer[#answer + 1] = low - before end
    before = low
  end
end
return {'1', answer}
