#!lua flags=allow-oom
-- give_back: return what a lane holds, but for what it executes, unharmed to the queue.
-- KEYS: prefix
-- ARGV: session lane ttl executing...
-- Reply: format, rid and token of each run that went back
-- Needs no era: it mints nothing and commits nothing.
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
local keep, claims, answer = {}, {}, {}
for i = 4, #ARGV do keep[ARGV[i]] = true end
for _, claim in ipairs(claims_of(session, lane)) do
  if not keep[claim[1]] then
    claims[#claims + 1] = claim
    answer[#answer + 1] = claim[1]
    answer[#answer + 1] = claim[2]
  end
end
offer_all(release(session, claims, ARGV[3]))
settle()
return {'1', answer}
