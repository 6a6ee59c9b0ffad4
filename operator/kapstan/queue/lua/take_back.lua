#!lua flags=allow-oom
-- take_back: return certain claims of a session unharmed to the queue. Claims that were made since have other tokens.
-- KEYS: prefix
-- ARGV: session ttl begun claims...
--   begun: rid of the one that was begun, or ''; claims: rid and token of each
-- Reply: format, rids that went back
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
local session, begun_one = ARGV[1], ARGV[3]
stay = ARGV[2]
local wanted, claims, answer = {}, {}, {}
for i = 4, #ARGV, 2 do wanted[ARGV[i]] = ARGV[i + 1] end
for _, claim in ipairs(claims_of(session)) do
  if wanted[claim[1]] == claim[2] then
    claims[#claims + 1] = claim
    answer[#answer + 1] = claim[1]
  end
end
offer_all(release(session, claims, stay, function(claim, record)
  return claim[1] == begun_one and begun(claim[1], record) or record
end))
settle()
return {'1', answer}
