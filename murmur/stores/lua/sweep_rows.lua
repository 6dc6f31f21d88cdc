-- Requeue tasks whose lease, which stands in the row, lapsed: LEASED -> QUEUED. Their messages come back by their own broker.
--
-- KEYS: topics. ARGV: rows, most rows in one call. Answer: {milliseconds until the next delayed one is due (-1: none),
--   1 if there is more to do now}.
local rows, most = ARGV[1], tonumber(ARGV[2])
local now, next_due, more = now_ms(), -1, 0
for _, topic in ipairs(KEYS) do
  local leased = string.gsub(rows, 'task:$', 'leased:') .. topic
  local delayed = string.gsub(rows, 'task:$', 'delayed:') .. topic
  local lapsed = redis.call('ZRANGEBYSCORE', leased, '-inf', now, 'LIMIT', 0, most)
  if #lapsed == most then more = 1 end
  for _, i in ipairs(lapsed) do
    redis.call('ZREM', leased, i)
    local v = look(rows .. i, 'state', 'until', 'lapses')
    if v and v[1] == 'leased' and (tonumber(v[2]) or math.huge) <= now then
      redis.call('HSET', rows .. i, 'state', 'queued', 'lapses', (tonumber(v[3]) or 0) + 1)
    end
  end
  redis.call('ZREMRANGEBYSCORE', delayed, '-inf', now)
  local first = redis.call('ZRANGE', delayed, 0, 0, 'WITHSCORES')
  if first[1] then
    local wait = tonumber(first[2]) - now
    if next_due < 0 or wait < next_due then next_due = wait end
  end
end
return {next_due, more}
