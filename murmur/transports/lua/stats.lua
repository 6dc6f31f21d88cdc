-- Count what is ready, handed out and dead. Exact, because whatever is settled is also deleted.
--
-- KEYS: topic, dead topic. ARGV: none. Answer: {ready, inflight, dead}.
local total, pending = 0, 0
for _, stream in ipairs({KEYS[1] .. ':again', KEYS[1]}) do
  total = total + redis.call('XLEN', stream)
  local summary = redis.pcall('XPENDING', stream, GROUP)
  if not summary.err then pending = pending + summary[1] end
end
return {math.max(0, total - pending), pending, redis.call('XLEN', KEYS[2])}
