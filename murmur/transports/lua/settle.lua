-- Settle deliveries that are still ours, and publish what goes with them in the same step.
--
-- KEYS: none. ARGV: window (s), retention of inboxes (s); then group by group: '1' if it is a repeat, number of
--   deliveries, number of messages; per delivery topic, reference, consumer; per message six arguments, see `publish`.
-- Answer: per group one character a delivery: 1 settled, 0 no longer ours, 2 gone, and this is a repeat. The messages of a
--   group are published unless it had deliveries and none was ours.
local window, retention = ARGV[1], ARGV[2]
local answer, streams, at = {}, {}, 3
while at <= #ARGV do
  local is_repeat, count, messages = ARGV[at], tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2])
  local codes, is_news = {}, count == 0
  at = at + 3
  for k = 1, count do
    local topic, ref, consumer = ARGV[at], ARGV[at + 1], ARGV[at + 2]
    at = at + 3
    local who = holder(topic, ref)
    if who == consumer then
      local stream, id = place(topic, ref)
      streams[stream] = streams[stream] or {}
      table.insert(streams[stream], id)
      is_news = true
      codes[k] = '1'
    else
      codes[k] = not who and is_repeat == '1' and '2' or '0'
    end
  end
  if is_news then publish(at, messages, window, retention) end
  at = at + 6 * messages
  answer[#answer + 1] = table.concat(codes)
end
drop_all(streams)
return answer
