-- Give back what lapsed, move on what is due, and forget consumers that left nothing behind.
--
-- The lease of a consumer stands at the end of its name (`node-1#5f2c.30000`, `node-1#5f2c.never`), so it is known even
-- where everything else was lost. Only entries idle beyond the lease of their own consumer are touched.
-- KEYS: topics. ARGV: rows, retention (s), milliseconds of lease to grant consumers that name none ('' for ever),
--   milliseconds of idleness after which an empty consumer is forgotten, most entries to move in one call.
-- Answer: {given back, moved on, milliseconds until the next is due (-1: none waits), 1 if there is more to do now}.
local rows, retention, default, forget, most = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local lapsed, due, next_due, more = 0, 0, -1, 0
local leases, late = {}, {}

local function lease_of(consumer)
  if leases[consumer] == nil then
    local text = string.match(consumer, '#%x+%.(%w+)$')
    leases[consumer] = text == 'never' and math.huge or tonumber(text) or default or math.huge
  end
  return leases[consumer]
end

local function shortest(consumers)
  local least = math.huge
  for _, one in ipairs(consumers) do
    if one.pending > 0 then least = math.min(least, lease_of(one.name)) end
  end
  return least
end

local function consumers_of(stream)
  local found = redis.pcall('XINFO', 'CONSUMERS', stream, GROUP)
  local answer = {}
  if found.err then return answer end
  for _, flat in ipairs(found) do
    local one = {}
    for at = 1, #flat, 2 do one[flat[at]] = flat[at + 1] end
    answer[#answer + 1] = one
  end
  return answer
end

local function sweep(topic, stream, mark)
  local consumers = consumers_of(stream)
  local least = shortest(consumers)
  local from = '-'
  while least < math.huge and from do
    local page = redis.call('XPENDING', stream, GROUP, 'IDLE', least, from, '+', 100)
    for _, one in ipairs(page) do
      if one[3] >= lease_of(one[2]) then
        if lapsed >= most then more = 1 return end
        -- First: the copy may wake a read that this very consumer left waiting here.
        if rows ~= '' and not late[one[2]] then redis.call('SET', late_mark(rows, one[2]), '', 'EX', LATE) end
        late[one[2]] = true
        send_back(rows, topic, mark .. one[1], 0, 1, 1, retention)
        lapsed = lapsed + 1
      end
    end
    from = #page == 100 and '(' .. page[100][1] or nil
  end
  for _, one in ipairs(consumers) do
    -- With anything pending its entries would be orphaned for good.
    if one.pending == 0 and one.idle > forget then redis.call('XGROUP', 'DELCONSUMER', stream, GROUP, one.name) end
  end
end

local function move_on(topic)
  local now, waiting, entries = now_ms(), topic .. ':delayed', topic .. ':delayed:entries'
  for _, ref in ipairs(redis.call('ZRANGEBYSCORE', waiting, '-inf', now, 'LIMIT', 0, most)) do
    local packed = redis.call('HGET', entries, ref)
    local i, d, h, n = unpack(packed and cmsgpack.unpack(packed) or {})
    local row, v, over = rows .. (i or ''), {}, nil
    if packed and rows ~= '' and i ~= '' then v, over = look(row, 'state', 'entry') end
    if packed and not over and (not v[1] or v[2] == ref) then
      local new = enqueue(topic, i, d, h, n, 0, true)
      if v[1] then redis.call('HSET', row, 'entry', new) end
    end
    drop(topic, ref)
    due = due + 1
  end
  local first = redis.call('ZRANGE', waiting, 0, 0, 'WITHSCORES')
  if first[1] then
    local wait = math.max(0, tonumber(first[2]) - now)
    if next_due < 0 or wait < next_due then next_due = wait end
  end
end

for _, topic in ipairs(KEYS) do
  sweep(topic, topic .. ':again', '+')
  sweep(topic, topic, '')
  move_on(topic)
end
return {lapsed, due, next_due, more}
