#!lua flags=allow-oom
-- announce: a lane begins a connection and says which claims it knows; what the queue shows beyond them goes back.
-- KEYS: prefix
-- ARGV: session lane connection ttl held...
--   connection: a number greater than those of the lane's connections before; held: rid and token of each known claim
-- Reply: format, rids that went back
-- Cures a lost reply (claims that no one has read) and a server that came back with an older state. What an older
-- connection sent and comes only now (this, or a step) does nothing.
-- include: now
-- include: record
-- include: doubt
-- include: whole
-- include: route
-- include: era
-- include: paused
-- include: index
-- include: settle
-- include: expiry
-- include: finish
-- include: deadline
-- include: claim
-- include: offer
-- include: release
local session, lane, connection = ARGV[1], ARGV[2], ARGV[3]
stay = ARGV[4]
local w, known, claims, answer = P .. 'w:' .. session, {}, {}, {}
local marks = call('HMGET', w, '@', '^' .. lane)
if marks[2] and (tonumber(marks[2]) or 0) >= tonumber(connection) then return {'1', answer} end
if marks[1] then call('HSET', w, '^' .. lane, connection) end
for i = 5, #ARGV, 2 do known[ARGV[i]] = ARGV[i + 1] end
for _, claim in ipairs(claims_of(session, lane)) do
  if known[claim[1]] ~= claim[2] then
    claims[#claims + 1] = claim
    answer[#answer + 1] = claim[1]
  end
end
call('HDEL', w, '#' .. lane)
offer_all(release(session, claims, stay, perhaps_begun))
settle()
return {'1', answer}
