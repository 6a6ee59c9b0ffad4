#!lua flags=allow-oom
-- lane_died: a child is gone. The run it was executing is charged with a crash, its others go back unharmed.
-- KEYS: prefix
-- ARGV: session lane died executing max_crashes envelope ttl
--   A run that is in doubt (see there) does not end here: its next claim ends it.
--   died: when, on the clock by which connections are numbered: of a child that has connected since, nothing is touched
--   executing: rid, or '' if it was idle; envelope: the outcome that is recorded when max_crashes is reached
-- Reply: format, crashes of the run (0: it was not charged), 1 if it was quarantined
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
local session, lane, executing = ARGV[1], ARGV[2], ARGV[4]
stay = ARGV[7]
local crashes, quarantined = 0, 0
if (tonumber(call('HGET', P .. 'w:' .. session, '^' .. lane) or 0) or 0) > tonumber(ARGV[3]) then return {'1', 0, 0} end
call('HDEL', P .. 'w:' .. session, '#' .. lane)
local routes = release(session, claims_of(session, lane), ARGV[7], function(claim, record)
  if claim[1] ~= executing then return perhaps_begun(claim, record) end
  record = charged(begun(executing, record))
  crashes = tonumber(sub(record, 27, 27))
  -- One that is stored ends by its next claim, too: a worker notes that in the store.
  if crashes < tonumber(ARGV[5]) or to_cancel(record) or in_doubt(record) or flagged(record, STORED) then return record end
  quarantined = 1
  finish(claim[1], record, 'x', claim[2], ARGV[6], ARGV[7], session, claim[3])
  return nil
end)
offer_all(routes)
settle()
return {'1', crashes, quarantined}
