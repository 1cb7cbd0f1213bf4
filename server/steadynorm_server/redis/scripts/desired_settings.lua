-- Reads the desired settings and records until when the run's agent polls for changes; that moment only moves forward.
-- KEYS: run. ARGV: Unix seconds at which the poll expires; 0: nothing to record, the script only reads.
-- Returns name, desired revision and desired settings; an empty list for an unknown run.
local stored = redis.call('HMGET', KEYS[1], 'name', 'desired_revision', 'desired', 'poll_expires_at')
if not stored[1] then
  return {}
end
if tonumber(ARGV[1]) > tonumber(stored[4] or '0') then
  redis.call('HSET', KEYS[1], 'poll_expires_at', ARGV[1])
end
return {stored[1], stored[2], stored[3]}
