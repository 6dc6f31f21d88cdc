-- Lengthen leases that stand in rows, for messages of another broker.
--
-- KEYS: none. ARGV: rows, milliseconds of the lease ('' for ever); per task topic, id, token.
-- Answer: one character a task: 1 lengthened, 0 no longer ours. A row that the server lost is nobody's.
local rows, lease = ARGV[1], ARGV[2]
local now, codes = now_ms(), {}
for at = 3, #ARGV, 3 do
  local topic, i, token = ARGV[at], ARGV[at + 1], ARGV[at + 2]
  local v = look(rows .. i, 'state', 'token')
  local is_ours = v and v[1] == 'leased' and v[2] == token
  if is_ours and lease ~= '' then
    redis.call('HSET', rows .. i, 'until', now + lease)
    redis.call('ZADD', string.gsub(rows, 'task:$', 'leased:') .. topic, now + lease, i)
  end
  codes[#codes + 1] = is_ours and '1' or '0'
end
return table.concat(codes)
