-- Keep a value for a while, and its key in the indexes that `listed.lua` reads. A few forgotten keys leave them each time.
--
-- KEYS: none. ARGV: prefix of values, key, value, milliseconds to keep it. Answer: nothing.
local prefix, key, value, ttl = unpack(ARGV)
local now = now_ms()
redis.call('SET', prefix .. key, value, 'PX', ttl)
redis.call('ZADD', prefix .. '*names', 0, key)
redis.call('ZADD', prefix .. '*until', now + ttl, key)
for _, old in ipairs(redis.call('ZRANGEBYSCORE', prefix .. '*until', '-inf', '(' .. now, 'LIMIT', 0, 10)) do
  redis.call('ZREM', prefix .. '*names', old)
  redis.call('ZREM', prefix .. '*until', old)
end
