-- Shared by the scripts of transport and store: each is put behind those definitions that it uses. A blank line ends one.
--
-- A topic is two streams of the group `workers`: `topic`, and `topic:again` for what was given back,
-- which is read first. What is delayed waits in the sorted set `topic:delayed` (by the milliseconds
-- of the server's clock when it is due) and the hash `topic:delayed:entries`.
-- An entry has the fields `d` body, `h` headers as JSON, `i` id of the message or task, `n` deliveries
-- that came to nothing; all but `d` may be absent ('' and 0 here).
-- A reference names an entry within its topic: `1700000000000-0` in `topic`, `+1700000000000-0` in
-- `topic:again`, `@17` among the delayed.
--
-- The row of a task stands at `rows .. id`; `rows` is '' where nobody keeps rows beside these streams. While the task goes on
-- it is a hash: `state` (queued, leased), `topic`, `entry` (the reference of its message), `reply_to`; from the first grant on
-- `token` and `owner`; `failures`, `crashes`, `lapses`, `errors`, `settled` (what ended the lease of which token), `journal`.
-- Once it is over, one string that expires stands in its place, packed: state, topic, entry, reply_to, token, failures,
-- crashes, lapses, errors, result.
local GROUP = 'workers'

local AT_ONCE = 1000  -- arguments of one command; the stack of Lua is finite

local function place(topic, ref)
  if string.byte(ref) == 43 then return topic .. ':again', string.sub(ref, 2) end
  return topic, ref
end

local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- Begins at 0: what was there before the group is not skipped.
local function make_group(stream)
  local made = redis.pcall('XGROUP', 'CREATE', stream, GROUP, '0', 'MKSTREAM')
  if type(made) == 'table' and made.err and not string.find(made.err, 'BUSYGROUP', 1, true) then error(made.err, 0) end
  return made
end

-- Return id, body, headers and n of an entry's flat list of fields.
local function fields(values)
  local i, d, h, n = '', '', '', 0
  for at = 1, #values, 2 do
    local name = values[at]
    if name == 'd' then d = values[at + 1]
    elseif name == 'i' then i = values[at + 1]
    elseif name == 'h' then h = values[at + 1]
    elseif name == 'n' then n = tonumber(values[at + 1]) or 0 end
  end
  return i, d, h, n
end

local function add(stream, i, d, h, n)
  if h == '' and n == 0 and i ~= '' then return redis.call('XADD', stream, '*', 'i', i, 'd', d) end
  local entry = {'d', d}
  if i ~= '' then entry[3], entry[4] = 'i', i end
  if h ~= '' then entry[#entry + 1] = 'h'; entry[#entry + 1] = h end
  if n ~= 0 then entry[#entry + 1] = 'n'; entry[#entry + 1] = n end
  return redis.call('XADD', stream, '*', unpack(entry))
end

-- Add an entry: to wait so many milliseconds, to be read first, or in its turn. Return its reference.
local function enqueue(topic, i, d, h, n, delay, first)
  if delay > 0 then
    local entries = topic .. ':delayed:entries'
    local ref = '@' .. redis.call('HINCRBY', entries, 'last', 1)
    redis.call('HSET', entries, ref, cmsgpack.pack({i, d, h, n}))
    redis.call('ZADD', topic .. ':delayed', now_ms() + delay, ref)
    return ref
  end
  if first then return '+' .. add(topic .. ':again', i, d, h, n) end
  return add(topic, i, d, h, n)
end

local function entry(topic, ref)
  local stream, id = place(topic, ref)
  local found = redis.call('XRANGE', stream, id, id)[1]
  return found and found[2]
end

local function exists(topic, ref)
  if not ref or ref == '' then return false end
  if string.byte(ref) == 64 then return redis.call('HEXISTS', topic .. ':delayed:entries', ref) == 1 end
  return entry(topic, ref) ~= nil
end

-- Take an entry away for good, wherever it waits or whoever holds it.
local function drop(topic, ref)
  if ref == '' then return end
  if string.byte(ref) == 64 then
    redis.call('ZREM', topic .. ':delayed', ref)
    redis.call('HDEL', topic .. ':delayed:entries', ref)
    return
  end
  local stream, id = place(topic, ref)
  redis.call('XACK', stream, GROUP, id)
  redis.call('XDEL', stream, id)
end

-- Settle many ids of each stream: {stream -> {id…}}. Without XDEL a stream would grow for ever.
local function drop_all(streams)
  for stream, ids in pairs(streams) do
    for first = 1, #ids, AT_ONCE do
      local last = math.min(#ids, first + AT_ONCE - 1)
      redis.call('XACK', stream, GROUP, unpack(ids, first, last))
      redis.call('XDEL', stream, unpack(ids, first, last))
    end
  end
end

-- Return who holds a pending entry, nil if nobody does.
local function holder(topic, ref)
  local stream, id = place(topic, ref)
  local pending = redis.pcall('XPENDING', stream, GROUP, id, id, 1)
  return not pending.err and pending[1] and pending[1][2] or nil
end

-- Stands while a consumer whose lease lapsed may have a read waiting here that it sent before.
local LATE = 30  -- seconds

local function late_mark(rows, consumer) return string.gsub(rows, 'task:$', 'late:') .. consumer end

-- Ring an inbox: one entry for many results, forgotten with them.
local function ring(inbox, results, retention)
  for first = 1, #results, AT_ONCE do
    local bells = {}
    for at = first, math.min(#results, first + AT_ONCE - 1) do
      bells[#bells + 1] = 'r'
      bells[#bells + 1] = results[at]
    end
    redis.call('XADD', inbox, '*', unpack(bells))
  end
  redis.call('EXPIRE', inbox, retention)
end

-- The task of an entry: a stranger writes its id in the body alone.
local function task_of(i, d)
  if i ~= '' then return i end
  local is_json, message = pcall(cjson.decode, d)
  if is_json and type(message) == 'table' and type(message.task_id) == 'string' then return message.task_id end
  return ''
end

-- Return fields of a row, each false where it is absent; nil and the packed values if the task is over.
local function look(row, ...)
  local v = redis.pcall('HMGET', row, ...)
  if v.err then return nil, cmsgpack.unpack(redis.call('GET', row)) end
  return v
end

-- Write that a task is over.
local function conclude(row, retention, ...)
  redis.call('SET', row, cmsgpack.pack({...}), 'EX', retention)
end

-- The task of this entry is over: settle it and ring its publisher again.
local function finish(over, topic, ref, retention)
  drop(topic, ref)
  if over[4] ~= '' then ring(over[4], {over[10]}, retention) end
end

-- Give a pending entry back as a copy that is read first, or later, with its row: LEASED -> QUEUED.
-- `counted` adds to its deliveries, `lapsed` to the lapses of its row.
local function send_back(rows, topic, ref, delay, counted, lapsed, retention)
  local values = entry(topic, ref)
  local i, d, h, n = fields(values or {})
  local task = rows ~= '' and values and task_of(i, d) or ''
  local row, v, over = rows .. task, {}, nil
  if task ~= '' then v, over = look(row, 'state', 'entry', 'topic', 'lapses', 'token') end
  if over then return finish(over, topic, ref, retention) end
  if v[1] and v[2] ~= ref and exists(v[3], v[2]) then return drop(topic, ref) end  -- a duplicate of a task that has its own
  if not values then return drop(topic, ref) end  -- its body was deleted by somebody
  local new = enqueue(topic, task ~= '' and task or i, d, h, n + counted, delay, true)
  drop(topic, ref)
  if v[2] == ref then
    redis.call('HSET', row, 'state', 'queued', 'entry', new)
    if v[1] == 'leased' then
      redis.call('HSET', row, 'lapses', (tonumber(v[4]) or 0) + lapsed,
        'settled', lapsed == 0 and 'release:' .. v[5] or '')
    end
  end
end

-- Publish messages from ARGV[at] on, six arguments each: topic, 'w' or 'i' (an inbox), milliseconds to wait, id, body, headers.
-- Return a reference each, after '=' if the message was there before; or an error.
local function publish(at, count, window, retention)
  local answer = {}
  for k = 1, count do
    local topic, kind, delay, i, d, h = unpack(ARGV, at, at + 5)
    at = at + 6
    local known = kind == 'w' and i ~= '' and topic .. ':id:' .. i
    local before = known and redis.call('GET', known)
    if before then
      answer[k] = '=' .. before
    else
      local is_done, ref = pcall(enqueue, topic, i, d, h, 0, tonumber(delay), false)
      if not is_done then
        answer[k] = type(ref) == 'table' and ref or {err = tostring(ref)}
      else
        answer[k] = ref
        if known then redis.call('SET', known, ref, 'EX', window) end
        if kind == 'i' then redis.call('EXPIRE', topic, retention) end
      end
    end
  end
  return answer, at
end
