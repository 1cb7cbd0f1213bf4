-- Marks a run as stalled, once for each silence, however many servers sweep.
-- KEYS: run, events. ARGV: expected last_seen, poll_expires_at (0: never polled), event, cap of the events.
-- Returns 1 if it was marked.
local stored = redis.call('HMGET', KEYS[1], 'state', 'last_seen', 'stalled', 'poll_expires_at')
if stored[1] ~= 'running' or stored[2] ~= ARGV[1] or stored[3] ~= ''
  or tonumber(stored[4] or '0') > tonumber(ARGV[2]) then
  return 0
end
redis.call('HSET', KEYS[1], 'stalled', stored[2])
redis.call('XADD', KEYS[2], 'MAXLEN', ARGV[4], '*', 'event', ARGV[3])
return 1
