-- Ends a run. KEYS: run, events. ARGV: incarnation ('' for any), state, reason, now, event, cap of the events.
-- Returns {'ok'}, {'not_found'}, or {'incarnation', known}. Ending a run in the same state again changes nothing.
local stored = redis.call('HMGET', KEYS[1], 'incarnation', 'state')
if not stored[1] then
  return {'not_found'}
end
if ARGV[1] ~= '' and ARGV[1] ~= stored[1] then
  return {'incarnation', stored[1]}
end
if stored[2] ~= ARGV[2] then
  redis.call('HSET', KEYS[1], 'state', ARGV[2], 'end_reason', ARGV[3], 'last_seen', ARGV[4], 'stalled', '')
  redis.call('XADD', KEYS[2], 'MAXLEN', ARGV[6], '*', 'event', ARGV[5])
end
return {'ok'}
