#!lua flags=allow-oom
-- drain: sessions claim no more and their lanes are idle no more; their supervisors are told. By the beginning of a name
-- (a pod's UID) that also holds for sessions that are opened later: a container that is started again in a drained pod.
-- KEYS: prefix
-- ARGV: name exact
--   exact: as in expire
-- Reply: format, names of the sessions
-- include: named
local names = {}
if ARGV[2] == '0' then call('SET', P .. 'dr:' .. string.gsub(ARGV[1], '%-$', ''), '1', 'EX', 86400) end
for _, session in ipairs(call('ZRANGE', P .. 's', 0, 9999)) do
  if session == ARGV[1] or (ARGV[2] == '0' and begins(session, ARGV[1])) then
    local w = P .. 'w:' .. session
    call('HSET', w, '!', '1')
    for _, field in ipairs(call('HKEYS', w)) do
      if sub(field, 1, 1) == '#' then call('HDEL', w, field) end
    end
    call('PUBLISH', P .. 'S:' .. session, 'd')
    names[#names + 1] = session
  end
end
return {'1', names}
