#!lua flags=allow-oom
-- delete: forget a run that has ended.
-- KEYS: prefix
-- ARGV: run_id
-- Reply: format, OK | NONE (no such run) | NOT (it has not ended), the state before
-- Its entries in the lists by hour stay until those go; readers pass over runs without a record.
-- include: record
-- include: whole
-- include: holder
local rid = ARGV[1]
local record = call('GET', P .. 't:' .. rid)
if not record then return {'1', 'NONE', ''} end
local state = is_whole(record) and state_now(rid, record) or 'x'
if not TERMINAL[state] then return {'1', 'NOT', state} end
call('DEL', P .. 't:' .. rid, P .. 'args:' .. rid)
return {'1', 'OK', state}
