-- Put tasks back: LEASED -> QUEUED, under the token that is valid; after a failure, or given back.
--
-- What the row counts is computed by the claim's holder: under his token nobody else can have changed it.
-- KEYS: none. ARGV: rows, '1' if messages move here, number of profiles; per profile topic and inbox; per task number of
--   its profile from 0, reference, id, token, verb, milliseconds to wait, failures, crashes, lapses, errors, body, headers, n.
-- Answer: one character a task: 1 done, 2 the same was done before, 0 the token is no longer valid.
local rows, moves = ARGV[1], ARGV[2] == '1'
local codes = {}

local function active(kind, topic) return string.gsub(rows, 'task:$', kind .. ':') .. topic end

for at = 4 + 2 * ARGV[3], #ARGV, 13 do
  local profile = 4 + 2 * ARGV[at]
  local topic = ARGV[profile]
  local ref, i, token, verb, delay, failures, crashes, lapses, errors, body, headers, n = unpack(ARGV, at + 1, at + 12)
  local row, settled = rows .. i, verb .. ':' .. token
  local v = look(row, 'state', 'token', 'entry', 'settled') or {'over'}
  local code = '0'
  if not v[1] or (v[1] == 'leased' and v[2] == token and v[3] == ref) then
    code = '1'
    delay = tonumber(delay)
    local entry = ref
    if moves then
      entry = enqueue(topic, i, body, headers, tonumber(n), delay, verb == 'release')
      drop(topic, ref)
    end
    if not v[1] then redis.call('HSET', row, 'topic', topic, 'reply_to', ARGV[profile + 1], 'token', token) end
    redis.call('HSET', row, 'state', 'queued', 'entry', entry, 'settled', settled, 'failures', failures, 'crashes', crashes,
      'lapses', lapses, 'errors', errors)
    if not moves then
      redis.call('ZREM', active('leased', topic), i)
      redis.call('HSET', row, 'not_before', now_ms() + delay)
      if delay > 0 then redis.call('ZADD', active('delayed', topic), now_ms() + delay, i) end
    end
  elseif v[1] == 'queued' and v[2] == token and v[4] == settled then
    code = '2'
  end
  codes[#codes + 1] = code
end
return table.concat(codes)
