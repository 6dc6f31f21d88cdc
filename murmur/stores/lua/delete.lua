-- Forget values.
--
-- KEYS: none. ARGV: prefix of values; keys. Answer: how many there were.
local deleted = 0
for at = 2, #ARGV do
  deleted = deleted + redis.call('DEL', ARGV[1] .. ARGV[at])
  redis.call('ZREM', ARGV[1] .. '*names', ARGV[at])
  redis.call('ZREM', ARGV[1] .. '*until', ARGV[at])
end
return deleted
