-- Keep a value in place of another, if that stands under the key.
--
-- KEYS: none. ARGV: prefix of values, key, milliseconds to keep it (0: for ever), '1' if one is expected, it, '1' if one is
--   to stand there, it. Answer: what stands there now; nil for nothing.
local prefix, key, ttl, is_expected, expected, is_kept, value = unpack(ARGV)
local stands = redis.call('GET', prefix .. key)
if (is_expected == '1' and stands ~= expected) or (is_expected == '0' and stands) then return stands end
if is_kept == '0' then
  redis.call('DEL', prefix .. key)
  redis.call('ZREM', prefix .. '*names', key)
  redis.call('ZREM', prefix .. '*until', key)
  return false
end
redis.call('ZADD', prefix .. '*names', 0, key)
if ttl == '0' then
  redis.call('SET', prefix .. key, value)
  redis.call('ZREM', prefix .. '*until', key)
else
  redis.call('SET', prefix .. key, value, 'PX', ttl)
  redis.call('ZADD', prefix .. '*until', now_ms() + ttl, key)
end
return value
