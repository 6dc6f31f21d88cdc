-- Journal a step of a task, once, under the token that is valid.
--
-- KEYS: none. ARGV: rows, prefix of journals, id, token, reference, name of the step, value.
-- Answer: what stands there now; nil if the token is no longer valid.
local rows, journals, i, token, ref, name, value = unpack(ARGV)
local v = look(rows .. i, 'state', 'token', 'entry', 'journal')
if not v or v[1] ~= 'leased' or v[2] ~= token or v[3] ~= ref then return false end
if not v[4] then redis.call('HSET', rows .. i, 'journal', '1') end  -- so that both are forgotten together
if redis.call('HSETNX', journals .. i, name, value) == 1 then return value end
return redis.call('HGET', journals .. i, name)
