-- Deletes a run with all its data, unless something that its expiry depends on has changed.
-- KEYS: run, then all other keys of the run. ARGV: expected last_seen, poll_expires_at (0: never polled), desired revision
-- and automation_version, which retention and lifecycle count up (empty: never). Returns 1 if it was deleted.
local stored = redis.call('HMGET', KEYS[1], 'last_seen', 'poll_expires_at', 'desired_revision', 'automation_version')
if stored[1] ~= ARGV[1] or tonumber(stored[2] or '0') > tonumber(ARGV[2]) or stored[3] ~= ARGV[3]
  or (stored[4] or '') ~= ARGV[4] then
  return 0
end
redis.call('UNLINK', unpack(KEYS))
return 1
