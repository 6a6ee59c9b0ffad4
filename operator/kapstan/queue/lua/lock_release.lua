#!lua flags=allow-oom
-- lock_release: the holder gives a lock back; the next in line has it.
-- KEYS: prefix
-- ARGV: digest holder token client repeated
--   token: '' for any; client: of the caller; repeated: 1: the answer to the first call was lost
-- Reply: format, 1 if it was held (or this client released it before), else 0
-- include: now
-- include: locks
local lc = P .. 'lc:' .. ARGV[4]
local hold = hold_of(ARGV[1])
if hold and hold[1] == ARGV[2] and (ARGV[3] == '' or hold[4] == ARGV[3]) then
  if call('EXISTS', lc) == 1 then call('HSET', lc, 'r', hold[4]) end
  pass_on(ARGV[1])
  return {'1', 1}
end
return {'1', ARGV[5] == '1' and ARGV[3] ~= '' and call('HGET', lc, 'r') == ARGV[3] and 1 or 0}
