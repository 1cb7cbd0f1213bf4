-- Ends a run. KEYS: run, events. ARGV: incarnation ('' for any), state, reason, now, event, cap of the events.
-- Answers {'ok'}, {'gone'}, or {'incarnation', known}. Ending twice in one way is ending once.
local now = redis.call('HMGET', KEYS[1], 'incarnation', 'state')
if not now[1] then
  return {'gone'}
end
if ARGV[1] ~= '' and ARGV[1] ~= now[1] then
  return {'incarnation', now[1]}
end
if now[2] ~= ARGV[2] then
  redis.call('HSET', KEYS[1], 'state', ARGV[2], 'end_reason', ARGV[3], 'last_seen', ARGV[4], 'stalled', '')
  redis.call('XADD', KEYS[2], 'MAXLEN', ARGV[6], '*', 'event', ARGV[5])
end
return {'ok'}
