-- Return rows as they stand.
--
-- KEYS: none. ARGV: rows; per task id. Answer: per task nil, or {state, agent, token, failures, crashes, lapses, owner,
--   result, errors}, each nil where it is absent.
local answer = {}
for at = 2, #ARGV do
  local v = redis.call('HMGET', ARGV[1] .. ARGV[at], 'state', 'agent', 'token', 'failures', 'crashes', 'lapses', 'owner',
    'result', 'errors')
  answer[at - 1] = v[1] and v
end
return answer
