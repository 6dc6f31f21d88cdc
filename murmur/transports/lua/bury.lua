-- Write the dead letter of a delivery that is still ours, at most one for its id, and settle it.
--
-- KEYS: topic, dead topic. ARGV: window (s), consumer, reference, id, letter, headers, '1' if this is a repeat.
-- Answer: 1 done, 0 no longer ours, 2 gone, and this is a repeat.
local window, consumer, ref, i, letter, h, is_repeat = unpack(ARGV)
local who = holder(KEYS[1], ref)
if who ~= consumer then return not who and is_repeat == '1' and 2 or 0 end
if i == '' or redis.call('SET', KEYS[2] .. ':id:' .. i, ref, 'NX', 'EX', window) then add(KEYS[2], i, letter, h, 0) end
drop(KEYS[1], ref)
return 1
