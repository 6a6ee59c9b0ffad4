#!lua flags=allow-oom
-- expire: end sessions now, because somebody saw their process end or they close; their runs go back, uncharged.
-- KEYS: prefix
-- ARGV: name exact ttl
--   exact: 1 if name is a whole name; 0 if it may be the first part of names, before '.', '-' or '_'; 2: as 0, and the
--     processes were seen to end, which is noted: whoever waits for that may take over what they began
-- Reply: format, 1 if all is done (0: call again), names of the sessions that were ended, names of those that live
-- By its first part only a session is ended whose supervisor does not listen any more: a session of that pod which does
-- is the next start's.
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
-- include: end_session
-- include: named
stay = ARGV[3]
local done, names, living = 1, {}, {}
for _, session in ipairs(call('ZRANGE', P .. 's', 0, 9999)) do
  if session == ARGV[1] or (ARGV[2] ~= '1' and begins(session, ARGV[1])) then
    if session ~= ARGV[1] and call('PUBSUB', 'NUMSUB', P .. 'S:' .. session)[2] > 0 then
      living[#living + 1] = session
    else
      if not end_session(session, ARGV[3]) then done = 0 end
      if ARGV[2] == '2' then -- known for 30 days
        call('SET', P .. 'gone:' .. session, '{"seen":"the process of session ' .. session .. ' was seen to end"}', 'EX', 2592000)
      end
      names[#names + 1] = session
      if #names >= 20 then
        done = 0
        break
      end
    end
  end
end
settle()
return {'1', done, names, living}
