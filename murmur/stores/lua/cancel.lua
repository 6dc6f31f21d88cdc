-- Cancel tasks that are not over: QUEUED or LEASED -> CANCELLED, with the result their publisher gets.
--
-- A message that waits is taken away; who may be running it is told on a channel.
-- KEYS: none. ARGV: rows, '1' if messages move here, retention (s), prefix of journals, channel; per task id and result.
-- Answer: per task its state now, nil where there is no row.
local rows, moves, retention, journals, channel = ARGV[1], ARGV[2] == '1', ARGV[3], ARGV[4], ARGV[5]
local answer = {}
for at = 6, #ARGV, 2 do
  local i, result = ARGV[at], ARGV[at + 1]
  local row = rows .. i
  local v = redis.call('HMGET', row, 'state', 'entry', 'topic', 'reply_to', 'journal')
  local state = v[1]
  if state and not is_over(state) then
    redis.call('HSET', row, 'state', 'cancelled', 'result', result)
    redis.call('EXPIRE', row, retention)
    if v[5] then redis.call('EXPIRE', journals .. i, retention) end
    if moves then
      drop(v[3], v[2])
      if v[4] ~= '' then ring(v[4], {result}, retention) end
    else
      for _, kind in ipairs({'leased:', 'delayed:'}) do
        redis.call('ZREM', string.gsub(rows, 'task:$', kind) .. v[3], i)
      end
    end
    if state == 'leased' then redis.call('PUBLISH', channel, i) end
    state = 'cancelled'
  end
  answer[#answer + 1] = state
end
return answer
