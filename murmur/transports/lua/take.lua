-- Read what is ready, what was given back first, and grant it in the same step.
--
-- KEYS: topics, in the order they are read.
-- ARGV: rows, owner, retention (s), consumer, credit, number of entries read before; per topic the most of it;
--   per entry read before: index of its topic, reference, task id.
-- Answer: {groups made anew, {entry…}}. An entry is {index of its topic, reference, id, body, token or 0, n, headers,
--   failures, crashes, lapses, errors}, cut after what is not empty. Of an entry read before, body, n and headers are not
--   repeated. An entry whose task is over, or that duplicates one which waits elsewhere, is settled here.
local rows, owner, retention, consumer, credit, before = ARGV[1], ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6])
local made, answer = 0, {}

local function hand_out(t, ref, i, d, h, n)
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
for t, topic in ipairs(KEYS) do
  local room = math.min(credit, tonumber(ARGV[6 + t]))
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
return {made, answer}
