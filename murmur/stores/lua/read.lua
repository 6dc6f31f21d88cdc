-- Return rows as they stand.
--
-- KEYS: none. ARGV: rows; per task id. Answer: per task nil, or {state, topic, entry, inbox, token, failures, crashes, lapses,
--   errors, result, owner}, each nil or '' where it is absent.
local answer = {}
for at = 2, #ARGV do
  local v, over = look(ARGV[1] .. ARGV[at], 'state', 'topic', 'entry', 'reply_to', 'token', 'failures', 'crashes', 'lapses',
    'errors', 'result', 'owner')
  answer[at - 1] = over or (v[1] and v)
end
return answer
