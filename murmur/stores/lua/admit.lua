-- Make rows for new tasks, and enqueue their messages.
--
-- A row that stands is answered as it is. While it is not over, the newest publisher is the one to ring, and a message
-- that was lost although its row was kept is enqueued again.
-- KEYS: none. ARGV: rows, '1' if messages move here, number of profiles; per profile topic and inbox ('' for none);
--   per task number of its profile from 0, id, body, headers.
-- Answer: {index from 0, state, result or nil} of each that stood.
local rows, moves = ARGV[1], ARGV[2] == '1'
local first = 4 + 2 * ARGV[3]
local stood = {}

local function is_lost(topic, ref)
  if exists(topic, ref) then return false end
  return ref == '' or string.byte(ref) == 64 or holder(topic, ref) == nil
end

-- Return state and result of a task that is there.
local function again(row, i, topic, inbox, d, h)
  local v, over = look(row, 'state', 'reply_to', 'entry', 'topic')
  if over then return over[1], over[10] end
  if inbox ~= '' and inbox ~= v[2] then redis.call('HSET', row, 'reply_to', inbox) end
  if moves and is_lost(v[4], v[3]) then
    redis.call('HSET', row, 'state', 'queued', 'topic', topic, 'entry', enqueue(topic, i, d, h, 0, 0, false))
  end
  return v[1], false
end

for at = first, #ARGV, 4 do
  local profile, i, d, h = 4 + 2 * ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
  local topic, inbox, row = ARGV[profile], ARGV[profile + 1], rows .. i
  if redis.call('EXISTS', row) == 0 then
    local ref = moves and add(topic, i, d, h, 0) or ''
    redis.call('HSET', row, 'state', 'queued', 'topic', topic, 'entry', ref, 'reply_to', inbox)
  else
    stood[#stood + 1] = {(at - first) / 4, again(row, i, topic, inbox, d, h)}
  end
end
return stood
