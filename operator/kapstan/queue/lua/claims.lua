#!lua flags=no-writes
-- claims: what a session holds.
-- KEYS: prefix
-- ARGV: session lane
--   lane: its claims alone; '' for those of every lane
-- Reply: format, rid, token and lane of each claim
local answer, form = {}, '^' .. string.rep('%d', 14) .. string.rep('%x', 10) .. '%d+\30'
local fields = call('HGETALL', P .. 'w:' .. ARGV[1])
for i = 1, #fields, 2 do
  local lane = string.match(fields[i + 1], '^%d*', 25)
  if #fields[i] == RID and find(fields[i + 1] .. '\30', form) and not find(fields[i], '[^%w_-]') and (ARGV[2] == '' or lane == ARGV[2]) then
    answer[#answer + 1] = fields[i]
    answer[#answer + 1] = sub(fields[i + 1], 1, 14)
    answer[#answer + 1] = lane
  end
end
return {'1', answer}
