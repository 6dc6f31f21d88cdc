-- Make the group of topics, from their very beginning, unless it is there.
--
-- KEYS: topics. ARGV: none. Answer: how many streams had no group.
local made = 0
for _, topic in ipairs(KEYS) do
  for _, stream in ipairs({topic .. ':again', topic}) do
    if not make_group(stream).err then made = made + 1 end
  end
end
return made
