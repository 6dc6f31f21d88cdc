-- Read what is ready, what was given back first, and grant it in the same step.
--
-- KEYS: topics, in the order they are read.
-- ARGV: rows, owner, retention (s), consumer, credit, number of entries read before, or -1; per topic the most of it;
--   per entry read before: index of its topic, reference, task id. If -1: per topic two ids, of `topic:again` and of `topic`:
--   the next after each that is pending for the consumer was read by the blocking read right before this script. Whose
--   leases lapsed may have stopped since it sent that: it is granted nothing until it asks again.
-- Answer: {groups made anew, entries read before that are answered, {entry…}}. An entry is {index of its topic, reference,
--   id, body, token or 0, n, headers, failures, crashes, lapses, errors}, cut after what is not empty. Of an entry read
--   before, body, n and headers are not repeated. An entry whose task is over, or that duplicates one which waits
--   elsewhere, is settled here.
local rows, owner, retention, consumer, credit, before = ARGV[1], ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6])
local made, answer, most = 0, {}, {}
for t = 1, #KEYS do most[t] = tonumber(ARGV[6 + t]) end

-- Return how many were handed out. `is_new`: unless another read's script already did.
local function hand_out(t, ref, i, d, h, n, is_new)
  local topic, token, counts = KEYS[t], 0, nil
  if rows ~= '' and i ~= '' then
    local row = rows .. i
    local v, over = look(row, 'state', 'entry', 'token')
    if over then finish(over, topic, ref, retention) return 0 end
    if v[1] then
      if v[2] ~= ref then
        if exists(redis.call('HGET', row, 'topic'), v[2]) then drop(topic, ref) return 0 end
        redis.call('HSET', row, 'entry', ref)  -- its own message is lost: this one takes its place
      end
      if is_new and v[1] == 'leased' then return 0 end
      token = 1
      if v[3] then
        token = v[3] + 1
        counts = redis.call('HMGET', row, 'failures', 'crashes', 'lapses', 'errors')
      end
      redis.call('HSET', row, 'state', 'leased', 'token', token, 'owner', owner)
    end
  end
  local item = {t, ref, i, d, token}
  if n ~= 0 or h ~= '' or counts then item[6], item[7] = n, h end
  if counts then
    for k = 1, 3 do item[k + 7] = tonumber(counts[k]) or 0 end
    item[11] = counts[4] or ''
  end
  answer[#answer + 1] = item
  return 1
end

local function read(stream, count)
  local found = redis.pcall('XREADGROUP', 'GROUP', GROUP, consumer, 'COUNT', count, 'STREAMS', stream, '>')
  if found and found.err then
    if not string.find(found.err, 'NOGROUP', 1, true) then return found end
    make_group(stream)
    made = made + 1
    found = redis.call('XREADGROUP', 'GROUP', GROUP, consumer, 'COUNT', count, 'STREAMS', stream, '>')
  end
  return found and found[1][2] or {}
end

local at = 7 + #KEYS
for _ = 1, before do
  local t, ref, i = tonumber(ARGV[at]), ARGV[at + 1], ARGV[at + 2]
  at = at + 3
  if holder(KEYS[t], ref) == consumer then credit = credit - hand_out(t, ref, i, '', '', 0) end
end
if before < 0 then
  if redis.call('EXISTS', late_mark(rows, consumer)) == 1 then return {0, 0, {}} end
  local call = {'XREADGROUP', 'GROUP', GROUP, consumer, 'COUNT', 1, 'STREAMS'}
  local number = {}
  for t, topic in ipairs(KEYS) do
    number[topic], number[topic .. ':again'] = t, t
    call[#call + 1] = topic .. ':again'
    call[#call + 1] = topic
  end
  -- With an id in place of '>', it reads again what is pending for the consumer after that id.
  for place = at, at + 2 * #KEYS - 1 do call[#call + 1] = ARGV[place] end
  local again = redis.pcall(unpack(call))
  for _, found in ipairs(again and not again.err and again or {}) do
    local stream, one = found[1], found[2][1]
    if one and one[2] and credit > 0 then
      local t = number[stream]
      local mark = stream == KEYS[t] and '' or '+'
      local taken = most[t] > 0 and hand_out(t, mark .. one[1], fields(one[2]), '', '', 0, true) or 0
      credit, most[t] = credit - taken, most[t] - taken
    end
  end
end
local count_before = #answer
for t, topic in ipairs(KEYS) do
  local room = math.min(credit, most[t])
  for _, stream in ipairs({topic .. ':again', topic}) do
    if room > 0 then
      local mark = stream == topic and '' or '+'
      local found = read(stream, room)
      if found.err then return found end
      for _, one in ipairs(found) do
        local i, d, h, n = fields(one[2] or {})
        local taken = hand_out(t, mark .. one[1], i, d, h, n)
        room = room - taken
        credit = credit - taken
      end
    end
  end
end
return {made, count_before, answer}
