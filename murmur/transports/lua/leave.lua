-- Leave nothing behind that is empty: a consumer that holds nothing any more, or inboxes without a result.
--
-- KEYS: topics, or inboxes. ARGV: consumer, '1' if the keys are inboxes. Answer: how many were forgotten.
local forgotten = 0
for _, key in ipairs(KEYS) do
  if ARGV[2] == '1' then
    if redis.call('XLEN', key) == 0 then forgotten = forgotten + redis.call('DEL', key) end
  else
    for _, stream in ipairs({key .. ':again', key}) do
      local pending = redis.pcall('XPENDING', stream, GROUP, '-', '+', 1, ARGV[1])
      if not pending.err and #pending == 0 then
        redis.call('XGROUP', 'DELCONSUMER', stream, GROUP, ARGV[1])
        forgotten = forgotten + 1
      end
    end
  end
end
return forgotten
