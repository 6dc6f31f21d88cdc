-- Return all values under keys that begin with a prefix.
--
-- KEYS: none. ARGV: prefix of values, prefix of keys. Answer: {key, value, …}.
local answer = {}
for _, key in ipairs(redis.call('ZRANGEBYLEX', ARGV[1] .. '*names', '[' .. ARGV[2], '(' .. ARGV[2] .. '\255')) do
  local value = redis.call('GET', ARGV[1] .. key)
  if value then
    answer[#answer + 1] = key
    answer[#answer + 1] = value
  end
end
return answer
