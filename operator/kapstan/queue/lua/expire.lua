#!lua flags=allow-oom
-- expire: end sessions now, because somebody saw their process end or they close; their runs go back.
-- KEYS: prefix
-- ARGV: name exact crashed ttl
--   exact: 1 if name is a whole name, 0 if it is how names begin; crashed: 1 if the process died
-- Reply: format, 1 if all is done (0: call again), names of the sessions that were ended
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
-- include: end_session
local done, names = 1, {}
for _, session in ipairs(call('ZRANGE', P .. 's', 0, 9999)) do
  if session == ARGV[1] or (ARGV[2] == '0' and sub(session, 1, #ARGV[1]) == ARGV[1]) then
    if not end_session(session, ARGV[4], ARGV[3] == '1') then done = 0 end
    names[#names + 1] = session
    if #names >= 20 then
      done = 0
      break
    end
  end
end
settle()
return {'1', done, names}
