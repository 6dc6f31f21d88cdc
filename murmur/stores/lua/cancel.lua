-- Cancel tasks that are not over: QUEUED or LEASED -> CANCELLED, with the result their publisher gets.
--
-- A message that waits is taken away; who may be running it is told on a channel.
-- KEYS: none. ARGV: rows, '1' if messages move here, retention (s), prefix of journals, channel; per task id and result.
-- Answer: per task its state now, nil where there is no row.
local rows, moves, retention, journals, channel = ARGV[1], ARGV[2] == '1', ARGV[3], ARGV[4], ARGV[5]

local function cancel(i, result)
  local row = rows .. i
  local v, over = look(row, 'state', 'topic', 'entry', 'reply_to', 'token', 'failures', 'crashes', 'lapses', 'errors', 'journal')
  if over then return over[1] end
  if not v[1] then return false end
  for k = 5, 9 do v[k] = v[k] or '' end
  local topic, ref, inbox = v[2], v[3], v[4]
  conclude(row, retention, 'cancelled', topic, ref, inbox, v[5], v[6], v[7], v[8], v[9], result)
  if v[10] then redis.call('EXPIRE', journals .. i, retention) end
  if moves then
    drop(topic, ref)
    if inbox ~= '' then ring(inbox, {result}, retention) end
  else
    for _, kind in ipairs({'leased:', 'delayed:'}) do redis.call('ZREM', string.gsub(rows, 'task:$', kind) .. topic, i) end
  end
  if v[1] == 'leased' then redis.call('PUBLISH', channel, i) end
  return 'cancelled'
end

local answer = {}
for at = 6, #ARGV, 2 do answer[#answer + 1] = cancel(ARGV[at], ARGV[at + 1]) end
return answer
