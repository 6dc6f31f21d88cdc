-- Write terminal results, each once, and only under the token that is valid: LEASED -> DONE, DEAD, EXPIRED.
--
-- In the same step the message is settled and its publisher rung, all results for one inbox in one entry.
-- A row that is gone was lost by the server: it is written anew.
-- KEYS: none. ARGV: rows, '1' if messages move here, retention (s), prefix of journals, number of profiles; per profile
--   topic, agent, inbox, dead topic; per task number of its profile from 0, reference, id, token, state, result, dead letter.
-- Answer: one character a task: 1 stored, 2 the same was stored before, 0 the token is no longer valid.
local rows, moves, retention, journals = ARGV[1], ARGV[2] == '1', ARGV[3], ARGV[4]
local codes, bells, streams = {}, {}, {}

for at = 6 + 4 * ARGV[5], #ARGV, 7 do
  local profile = 6 + 4 * ARGV[at]
  local topic, inbox = ARGV[profile], ARGV[profile + 2]
  local ref, i, token, state, result, letter = unpack(ARGV, at + 1, at + 6)
  local row = rows .. i
  local v = redis.call('HMGET', row, 'state', 'token', 'entry', 'reply_to', 'journal')
  local code = '0'
  if not v[1] then
    redis.call('HSET', row, 'agent', ARGV[profile + 1], 'topic', topic, 'entry', ref, 'reply_to', inbox, 'token', token)
    code = '1'
  elseif v[2] == token and v[3] == ref then
    if v[1] == 'leased' then code = '1' elseif v[1] == state then code = '2' end
    inbox = v[4]
  end
  if code == '1' then
    redis.call('HSET', row, 'state', state, 'result', result)
    redis.call('EXPIRE', row, retention)
    if v[5] then redis.call('EXPIRE', journals .. i, retention) end
    if letter ~= '' then add(ARGV[profile + 3], i, letter, '', 0) end
    if moves then
      local stream, id = place(topic, ref)
      local ids = streams[stream]
      if ids then ids[#ids + 1] = id else streams[stream] = {id} end
      if inbox ~= '' then
        local results = bells[inbox]
        if results then results[#results + 1] = result else bells[inbox] = {result} end
      end
    else
      redis.call('ZREM', string.gsub(rows, 'task:$', 'leased:') .. topic, i)
    end
  end
  codes[#codes + 1] = code
end
for inbox, results in pairs(bells) do ring(inbox, results, retention) end
drop_all(streams)
return table.concat(codes)
