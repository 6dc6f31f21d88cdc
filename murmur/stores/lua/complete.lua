-- Write terminal results, each once, and only under the token that is valid: LEASED -> DONE, DEAD, EXPIRED.
--
-- In the same step the message is settled and its publisher rung, all results for one inbox in one entry.
-- A row that is gone was lost by the server: it is written anew.
-- KEYS: none. ARGV: rows, '1' if messages move here, retention (s), prefix of journals, number of profiles; per profile
--   topic, inbox, state, dead topic, failures, crashes, lapses, errors; per task number of its profile from 0, reference, id,
--   token, result; and where the state is `dead`, the letter.
-- Answer: one character a task: 1 stored, 2 the same was stored before, 0 the token is no longer valid.
local rows, moves, retention, journals = ARGV[1], ARGV[2] == '1', ARGV[3], ARGV[4]
local codes, bells, streams = {}, {}, {}

local function settle(topic, ref, inbox, result)
  local stream, id = place(topic, ref)
  local ids, results = streams[stream], bells[inbox]
  if ids then ids[#ids + 1] = id else streams[stream] = {id} end
  if inbox == '' then return end
  if results then results[#results + 1] = result else bells[inbox] = {result} end
end

local at = 6 + 8 * ARGV[5]
while at <= #ARGV do
  local profile, ref, i, token, result = 6 + 8 * ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3], ARGV[at + 4]
  local topic, inbox, state, dead, failures, crashes, lapses, errors = unpack(ARGV, profile, profile + 7)
  local row, code = rows .. i, '0'
  local v, over = look(row, 'state', 'token', 'entry', 'reply_to', 'journal')
  at = at + 5
  if over then
    if over[1] == state and over[3] == ref and over[5] == token then code = '2' end
  elseif not v[1] or (v[1] == 'leased' and v[2] == token and v[3] == ref) then
    code, inbox = '1', v[4] or inbox
    conclude(row, retention, state, topic, ref, inbox, token, failures, crashes, lapses, errors, result)
    if v[5] then redis.call('EXPIRE', journals .. i, retention) end
    if state == 'dead' then add(dead, i, ARGV[at], '', 0) end
    if moves then settle(topic, ref, inbox, result) else redis.call('ZREM', string.gsub(rows, 'task:$', 'leased:') .. topic, i) end
  end
  if state == 'dead' then at = at + 1 end
  codes[#codes + 1] = code
end
for inbox, results in pairs(bells) do ring(inbox, results, retention) end
drop_all(streams)
return table.concat(codes)
