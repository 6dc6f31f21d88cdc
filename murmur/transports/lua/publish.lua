-- Publish messages, each once per id within the window.
--
-- KEYS: none. ARGV: window (s), retention of inboxes (s), then six arguments a message, see `publish`.
-- Answer: per message a reference, '=' before it if it was there already, or an error.
return (publish(3, (#ARGV - 2) / 6, ARGV[1], ARGV[2]))
