#!lua
-- lock_ask: take a lock that is free, else a place in line. The same call may be repeated.
-- KEYS: prefix
-- ARGV: digest shown client generation number hold holder look stay silent...
--   shown: the key for people; hold: ms until it is free by itself, or ''; look: 1 if it only wants to hear of a release
--   stay: 0: take no place; silent: client and beat of each that was silent for a lease
-- Reply: format, OK and the token; WAIT, client, about and beat of the holder, ms that are left to it (or ''), and how
--   many are in front; GONE if this client is not known; LATE if it has called again on newer connections
-- include: now
-- include: locks
local digest, client, number, hold_ms, holder = ARGV[1], ARGV[3], ARGV[5], ARGV[6], ARGV[7]
local look, stay = ARGV[8] == '1', ARGV[9] == '1'
if call('HEXISTS', P .. 'lc:' .. client, 'n') == 0 then return {'1', 'GONE'} end
if not in_time(client, ARGV[4]) then return {'1', 'LATE'} end
for i = 10, #ARGV, 2 do
  if (call('HGET', P .. 'lc:' .. ARGV[i], 'n') or '') == ARGV[i + 1] then end_client(ARGV[i]) end
end
local lk, lw, lh = P .. 'lk:' .. digest, P .. 'lw:' .. digest, P .. 'lh:' .. client
local place = client .. number .. ':' .. hold_ms .. ':' .. holder
local hold = hold_of(digest)
if not hold and call('EXISTS', lw) == 1 then -- a hold whose record was lost
  pass_on(digest)
  hold = hold_of(digest)
end
if not hold and look then return {'1', 'OK', '0'} end
if not hold then
  grant(digest, client, number, hold_ms, holder)
  call('HSET', lk, 'k', ARGV[2])
  call('SADD', lh, digest .. number)
  call('EXPIRE', lh, STAYS)
  return {'1', 'OK', call('HGET', lk, 't')}
end
if hold[1] == holder and not look then
  if call('ZREM', lw, place) == 1 then call('SREM', lh, digest .. number) end
  return {'1', 'OK', hold[4]}
end
local ahead = 0
if stay then
  call('SADD', lh, digest .. number)
  call('EXPIRE', lh, STAYS)
  if look then
    call('SADD', P .. 'll:' .. digest, client .. number)
    call('EXPIRE', P .. 'll:' .. digest, STAYS)
  else
    if not call('ZSCORE', lw, place) then call('ZADD', lw, mint(), place) end
    call('EXPIRE', lw, STAYS)
    ahead = call('ZRANK', lw, place)
  end
end
local of = call('HMGET', P .. 'lc:' .. hold[2], 'a', 'n')
local left = hold[5] ~= '' and format('%.0f', tonumber(hold[5]) - now()) or ''
return {'1', 'WAIT', hold[2], of[1] or '', of[2] or '', left, ahead}
