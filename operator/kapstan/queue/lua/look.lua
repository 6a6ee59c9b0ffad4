#!lua flags=no-writes
-- look: records of up to 500 runs as they are now, those of running runs too.
-- KEYS: prefix
-- ARGV: most run_ids...
--   most: how many bytes of each are wanted (-1: all)
-- Reply: format, the records; state, token and since of a run that a session holds are those of its claim
local answer, names = {}, {}
for i = 2, #ARGV do names[i - 1] = T .. ARGV[i] end
local records = call('MGET', unpack(names))
local claims = {}
for _, session in ipairs(call('ZRANGE', P .. 's', 0, 9999)) do
  for i, claim in ipairs(call('HMGET', P .. 'w:' .. session, unpack(ARGV, 2))) do claims[i] = claims[i] or claim end
end
for i, record in ipairs(records) do
  if record and claims[i] and #claims[i] > 24 then
    record = sub(record, 1, 1) .. 'r' .. sub(claims[i], 1, 24) .. sub(record, 27)
  end
  answer[i] = record and sub(record, 1, ARGV[1])
end
return {'1', answer}
