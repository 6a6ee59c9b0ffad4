#!lua flags=no-writes
-- claims: what a session holds.
-- KEYS: prefix
-- ARGV: session
-- Reply: format, rid, token and lane of each claim
local RID, answer = 22, {}
local fields = call('HGETALL', P .. 'w:' .. ARGV[1])
for i = 1, #fields, 2 do
  if #fields[i] == RID then
    answer[#answer + 1] = fields[i]
    answer[#answer + 1] = sub(fields[i + 1], 1, 14)
    answer[#answer + 1] = sub(fields[i + 1], 15)
  end
end
return {'1', answer}
