-- Marks a run stalled, once for each silence, whoever notices it first.
-- KEYS: run, events. ARGV: the last_seen that was judged, event, cap of the events.
local now = redis.call('HMGET', KEYS[1], 'state', 'last_seen', 'stalled')
if now[1] ~= 'running' or now[2] ~= ARGV[1] or now[3] ~= '' then
  return 0
end
redis.call('HSET', KEYS[1], 'stalled', now[2])
redis.call('XADD', KEYS[2], 'MAXLEN', ARGV[3], '*', 'event', ARGV[2])
return 1
