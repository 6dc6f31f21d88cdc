-- Give pending entries of one consumer back, with their rows.
--
-- KEYS: none. ARGV: rows, retention (s), consumer, milliseconds to wait, '1' if it counts as a delivery, '1' if their leases
--   lapsed, '1' if this is a repeat; per entry topic and reference.
-- Answer: one character an entry: 1 given back, 0 held by another, 2 gone, and this is a repeat.
local rows, retention, consumer, delay = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local counted, lapsed, is_repeat = tonumber(ARGV[5]), tonumber(ARGV[6]), ARGV[7]
local codes = {}
for at = 8, #ARGV, 2 do
  local topic, ref = ARGV[at], ARGV[at + 1]
  local who = holder(topic, ref)
  if who == consumer then
    send_back(rows, topic, ref, delay, counted, lapsed, retention)
    codes[#codes + 1] = '1'
  else
    codes[#codes + 1] = not who and is_repeat == '1' and '2' or '0'
  end
end
return table.concat(codes)
