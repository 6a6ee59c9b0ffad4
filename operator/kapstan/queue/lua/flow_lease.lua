#!lua flags=allow-oom
-- flow_lease: take, renew or release the lease of a flow run. The highest attempt that ever asked is remembered.
-- KEYS: prefix
-- ARGV: run_id action attempt holder lease_ms ttl
--   action: take | renew | release; holder: new for every process start, so that a repeated call is recognised
-- Reply: format, 1 granted or 0 refused, 1 if a cancel of this attempt was asked for
-- fl:<rid> = attempt 9 digits, until 14 digits (ms), holder. A higher attempt takes the lease at once; a lower one is
-- always refused, an equal one of another holder while the lease runs. fc:<rid> = the highest attempt to be cancelled.
-- include: now
local key, action = P .. 'fl:' .. ARGV[1], ARGV[2]
local attempt, holder = format('%09d', ARGV[3]), ARGV[4]
local there = call('GET', key)
if there and not find(there, '^' .. string.rep('%d', 23)) then there = nil end -- another program's: the journal fences
local mine = there and sub(there, 1, 9) == attempt and sub(there, 24) == holder
if action == 'release' then
  if mine then call('SET', key, attempt .. format('%014d', 0), 'EX', ARGV[6]) end
  return {'1', mine and 1 or 0, 0}
end
if there and not mine then
  local held, most = tonumber(sub(there, 10, 23)) > now(), now() + 2 * ARGV[5]
  if tonumber(sub(there, 10, 23)) > most then -- the server's clock was set back: it ends as late as this from now on
    call('SET', key, sub(there, 1, 9) .. format('%014d', most) .. sub(there, 24), 'EX', ARGV[6])
  end
  if sub(there, 1, 9) > attempt or (sub(there, 1, 9) == attempt and held) then return {'1', 0, 0} end
  if sub(there, 1, 9) == attempt and action == 'renew' then return {'1', 0, 0} end
end
call('SET', key, attempt .. format('%014d', now() + ARGV[5]) .. holder, 'EX', ARGV[6])
return {'1', 1, (call('GET', P .. 'fc:' .. ARGV[1]) or '') >= attempt and 1 or 0}
