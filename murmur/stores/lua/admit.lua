-- Make rows for new tasks, and enqueue their messages.
--
-- A row that stands is answered as it is. While it is not over, the newest publisher is the one to ring, and a message
-- that was lost although its row was kept is enqueued again.
-- KEYS: none. ARGV: rows, '1' if messages move here, number of profiles; per profile topic, agent, inbox ('' for none);
--   per task number of its profile from 0, id, body, headers.
-- Answer: {index from 0, state, result or nil} of each that stood.
local rows, moves = ARGV[1], ARGV[2] == '1'
local first = 4 + 3 * ARGV[3]
local stood = {}

local function is_lost(topic, ref)
  if exists(topic, ref) then return false end
  return ref == '' or string.byte(ref) == 64 or holder(topic, ref) == nil
end

for at = first, #ARGV, 4 do
  local profile = 4 + 3 * ARGV[at]
  local topic, inbox, i = ARGV[profile], ARGV[profile + 2], ARGV[at + 1]
  local row = rows .. i
  if redis.call('EXISTS', row) == 0 then
    local ref = moves and enqueue(topic, i, ARGV[at + 2], ARGV[at + 3], 0, 0, false) or ''
    redis.call('HSET', row, 'state', 'queued', 'agent', ARGV[profile + 1], 'topic', topic, 'entry', ref, 'reply_to', inbox)
  else
    local v = redis.call('HMGET', row, 'state', 'result', 'reply_to', 'entry')
    stood[#stood + 1] = {(at - first) / 4, v[1], v[2]}
    if not is_over(v[1]) then
      if inbox ~= '' and inbox ~= v[3] then redis.call('HSET', row, 'reply_to', inbox) end
      if moves and is_lost(redis.call('HGET', row, 'topic'), v[4] or '') then
        local ref = enqueue(topic, i, ARGV[at + 2], ARGV[at + 3], 0, 0, false)
        redis.call('HSET', row, 'state', 'queued', 'topic', topic, 'entry', ref)
      end
    end
  end
end
return stood
