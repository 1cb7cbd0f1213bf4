-- Removes a run with all its data, provided that nothing moved that it was judged by.
-- KEYS: run, then all others of the run. ARGV: its last_seen, listening (0: never), desired revision and retention
-- (empty: none), as they were judged. Answers whether it was removed.
local now = redis.call('HMGET', KEYS[1], 'last_seen', 'listening', 'desired_revision', 'retention')
if now[1] ~= ARGV[1] or tonumber(now[2] or '0') > tonumber(ARGV[2]) or now[3] ~= ARGV[3] or (now[4] or '') ~= ARGV[4] then
  return 0
end
redis.call('UNLINK', unpack(KEYS))
return 1
