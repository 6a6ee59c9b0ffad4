-- What the scripts of locks share. A key is named by its digest. lk:<digest> is its hold: h holder, c client, w number of
-- the wait that it was granted to, t token, s since (Unix ms), u until (ms of now(); '' never), k the key, shortened.
-- lw:<digest> is the line, by arrival: client (22), number ':' hold in ms (or nothing) ':' holder. ll:<digest>: client and
-- number of those that only want to hear of a release. lc:<client>: n beat, a about its process, g generation of its
-- connections, r the token that it released last. lh:<client>: digest (40) and number of all that it holds or waits for.

-- section: locks
local DIGEST, CLIENT, STAYS = 40, 22, 7 * 86400

-- A number above every one before, also after a server lost its last writes: tokens, and the order of arrival.
local function mint()
  local last, new = tonumber(call('GET', P .. 'lt') or 0) or 0, time[1] * 1000000 + time[2]
  if last ~= last or last > 9e15 then last = 0 end -- another program wrote it
  if new <= last then new = last + 1 end
  new = format('%.0f', new)
  call('SET', P .. 'lt', new)
  return new
end

local function ring(digest, client, number) return call('PUBLISH', P .. 'lc:' .. client, number .. ' ' .. digest) end

local function grant(digest, client, number, hold, holder)
  local lk = P .. 'lk:' .. digest
  local until_ms = hold ~= '' and format('%.0f', now() + hold) or ''
  call('HSET', lk, 'h', holder, 'c', client, 'w', number, 't', mint(), 's', format('%.0f', moment), 'u', until_ms)
  call('EXPIRE', lk, STAYS)
end

-- The hold is over: the first in line has it, and those that look hear of it.
local function pass_on(digest)
  local lk, lw, ll = P .. 'lk:' .. digest, P .. 'lw:' .. digest, P .. 'll:' .. digest
  local was = call('HMGET', lk, 'c', 'w')
  if was[1] and was[2] then call('SREM', P .. 'lh:' .. was[1], digest .. was[2]) end
  for _, look in ipairs(call('SMEMBERS', ll)) do
    call('SREM', P .. 'lh:' .. sub(look, 1, CLIENT), digest .. sub(look, CLIENT + 1))
    ring(digest, sub(look, 1, CLIENT), sub(look, CLIENT + 1))
  end
  call('DEL', ll)
  local first, number, hold, holder
  repeat
    first = call('ZPOPMIN', lw)[1]
    if not first then call('DEL', lk) return end
    number, hold, holder = string.match(sub(first, CLIENT + 1), '^(%d+):(%d*):(.*)$')
    local hears = number and ring(digest, sub(first, 1, CLIENT), number) > 0 -- if not, its connection is gone: it asks anew, or never
    if number and not hears then call('SREM', P .. 'lh:' .. sub(first, 1, CLIENT), digest .. number) end
  until hears
  grant(digest, sub(first, 1, CLIENT), number, hold, holder)
  local second = call('ZRANGE', lw, 0, 0)[1] -- looks, to see the end of the new holder at once
  local place = second and string.match(second, '^%d+', CLIENT + 1)
  if place then ring(digest, sub(second, 1, CLIENT), place) end
end

-- Holder, client, number, token and end of the hold of a key; nothing if there is none, or it just came to its end.
local function hold_of(digest)
  local hold = call('HMGET', P .. 'lk:' .. digest, 'h', 'c', 'w', 't', 'u')
  if not hold[1] and call('EXISTS', P .. 'lk:' .. digest) == 0 then return nil end
  if not (hold[1] and hold[2] and hold[3] and find(hold[4] or '', '^%d+$') and find(hold[5] or '-', '^%d*$')) then
    error({err = 'UNREADABLE another program wrote to lk:' .. digest .. ': whoever held this lock may hold it still. When nobody does, delete that key'})
  end
  if hold[1] and hold[5] ~= '' and now() >= tonumber(hold[5]) then
    pass_on(digest)
    hold = call('HMGET', P .. 'lk:' .. digest, 'h', 'c', 'w', 't', 'u')
  end
  return hold[1] and hold
end

-- Take one wait of a client out of the line of a key; what it holds by it is over.
local function leave(digest, client, number)
  local begins = client .. number .. ':'
  for _, place in ipairs(call('ZRANGE', P .. 'lw:' .. digest, 0, -1)) do
    if sub(place, 1, #begins) == begins then call('ZREM', P .. 'lw:' .. digest, place) end
  end
  call('SREM', P .. 'll:' .. digest, client .. number)
  call('SREM', P .. 'lh:' .. client, digest .. number)
  local hold = call('HMGET', P .. 'lk:' .. digest, 'c', 'w')
  if hold[1] == client and hold[2] == number then pass_on(digest) end
end

local function end_client(client)
  for _, each in ipairs(call('SMEMBERS', P .. 'lh:' .. client)) do
    leave(sub(each, 1, DIGEST), client, sub(each, DIGEST + 1))
  end
  call('DEL', P .. 'lc:' .. client, P .. 'lh:' .. client)
end

-- Whether a command of this generation of a client's connections may still act: it is not late.
local function in_time(client, generation)
  local lc = P .. 'lc:' .. client
  local known = tonumber(call('HGET', lc, 'g') or 0) or 0
  if known < tonumber(generation) then call('HSET', lc, 'g', generation) end
  return known <= tonumber(generation)
end
