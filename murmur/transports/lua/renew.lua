-- Renew leases: make pending entries young again, where they are still ours.
--
-- An unconditional XCLAIM by somebody who lost his lease would steal the task back from its new owner.
-- KEYS: none. ARGV: rows, consumer; per lease topic, reference, task id, token ('0': it was not granted).
-- Answer: one character a lease: 1 renewed, 0 lost. A row that the server lost is nobody else's.
local rows, consumer = ARGV[1], ARGV[2]
local codes = {}
for at = 3, #ARGV, 4 do
  local topic, ref, task, token = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
  local is_ours, is_held = false, holder(topic, ref) == consumer
  if rows ~= '' and token ~= '0' then
    local v = look(rows .. task, 'state', 'token', 'entry')
    is_ours = v ~= nil and (not v[1] or (v[1] == 'leased' and v[2] == token and v[3] == ref))
  else
    is_ours = is_held
  end
  if is_ours and is_held then
    local stream, id = place(topic, ref)
    redis.call('XCLAIM', stream, GROUP, consumer, '0', id, 'JUSTID')
  end
  codes[#codes + 1] = is_ours and '1' or '0'
end
return table.concat(codes)
