#!lua flags=allow-oom
-- announce: after a reconnect, say which claims are still known; what the queue shows beyond them goes back.
-- KEYS: prefix
-- ARGV: session lane ttl held...
--   lane: its number, or '*' for every lane of the session; held: rid and token of each known claim
-- Reply: format, rids that went back
-- Cures a lost reply (claims that no one has read) and a server that came back with an older state. A supervisor, which
-- speaks for lanes that go on claiming meanwhile ('*'), gives back claims of older eras only.
-- include: now
-- include: record
-- include: route
-- include: era
-- include: index
-- include: settle
-- include: finish
-- include: claim
-- include: offer
-- include: release
local session, lane = ARGV[1], ARGV[2]
local known, claims, answer = {}, {}, {}
local current = era() or '000000'
for i = 4, #ARGV, 2 do known[ARGV[i]] = ARGV[i + 1] end
for _, claim in ipairs(claims_of(session, lane ~= '*' and lane or nil)) do
  if known[claim[1]] ~= claim[2] and (lane ~= '*' or sub(claim[2], 1, 6) < current) then
    claims[#claims + 1] = claim
    answer[#answer + 1] = claim[1]
  end
end
if lane ~= '*' then call('HDEL', P .. 'w:' .. session, '#' .. lane) end
offer_all(release(session, claims, ARGV[3]))
settle()
return {'1', answer}
