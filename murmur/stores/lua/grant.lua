-- Lease tasks whose messages came without a grant: a stranger's, or those of another broker.
--
-- KEYS: none. ARGV: rows, '1' if messages move here, retention (s), owner, milliseconds of the lease ('' for ever), what
--   tells this call from all others; per task topic, consumer, reference, id, inbox.
-- Answer: per task {token, failures, crashes, lapses, errors}, or {0, milliseconds until it may be free}, or {-1, state,
--   result} if it is over. The same call twice grants once; the same task twice in one call, too.
local rows, moves, retention, owner, lease, call = ARGV[1], ARGV[2] == '1', ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local now = now_ms()
local WHO_KNOWS = 5000  -- milliseconds to wait for a lease that has no end

local function active(kind, topic) return string.gsub(rows, 'task:$', kind .. ':') .. topic end

-- Return for how many milliseconds others keep this task, and the lapses to add.
local function kept(topic, ref, consumer, v)
  if not moves then
    if v[1] == 'leased' then
      local left = (tonumber(v[9]) or math.huge) - now
      return left == math.huge and WHO_KNOWS or left, 1
    end
    return (tonumber(v[10]) or 0) - now, 0
  end
  if holder(topic, ref) ~= consumer then return WHO_KNOWS, 0 end
  if v[2] ~= ref then
    if exists(v[8], v[2]) then drop(topic, ref) return WHO_KNOWS, 0 end  -- a duplicate of a task that has its own message
    if v[1] == 'leased' then return WHO_KNOWS, 0 end
  end
  return 0, 0
end

local function grant(call, topic, consumer, ref, i, inbox)
  local row = rows .. i
  local v, over = look(row, 'state', 'entry', 'token', 'failures', 'crashes', 'lapses', 'errors', 'topic', 'until',
    'not_before', 'granted_by')
  if over then
    if moves then finish(over, topic, ref, retention) end
    return {-1, over[1], over[10]}
  end
  local token, lapses = tonumber(v[3]) or 0, tonumber(v[6]) or 0
  if not (v[1] == 'leased' and v[11] == call) then
    if v[1] then
      local left, lapsed = kept(topic, ref, consumer, v)
      if left > 0 then return {0, left} end
      lapses = lapses + lapsed
    else
      if moves and holder(topic, ref) ~= consumer then return {0, WHO_KNOWS} end
      redis.call('HSET', row, 'reply_to', inbox)
    end
    token = token + 1
    redis.call('HSET', row, 'state', 'leased', 'topic', topic, 'entry', ref, 'token', token, 'owner', owner, 'lapses', lapses,
      'granted_by', call)
    if not moves then
      redis.call('ZREM', active('delayed', topic), i)
      if lease ~= '' then
        redis.call('HSET', row, 'until', now + lease)
        redis.call('ZADD', active('leased', topic), now + lease, i)
      else
        redis.call('HDEL', row, 'until')
      end
    end
  end
  return {token, tonumber(v[4]) or 0, tonumber(v[5]) or 0, lapses, v[7] or ''}
end

local answer = {}
for at = 7, #ARGV, 5 do answer[#answer + 1] = grant(call .. at, unpack(ARGV, at, at + 4)) end
return answer
