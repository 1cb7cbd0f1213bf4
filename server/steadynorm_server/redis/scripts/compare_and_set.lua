-- Writes one field of the run (schedules, rules, retention or lifecycle), unless one of these was written since it was read.
-- KEYS: run, events. ARGV: expected automation_version (empty: none yet), field, its value, event (empty: none), cap.
-- Returns 'ok', 'not_found' or 'conflict'.
local stored = redis.call('HMGET', KEYS[1], 'name', 'automation_version')
if not stored[1] then
  return 'not_found'
end
if (stored[2] or '') ~= ARGV[1] then
  return 'conflict'
end
redis.call('HSET', KEYS[1], ARGV[2], ARGV[3])
redis.call('HINCRBY', KEYS[1], 'automation_version', 1)
if ARGV[4] ~= '' then
  redis.call('XADD', KEYS[2], 'MAXLEN', ARGV[5], '*', 'event', ARGV[4])
end
return 'ok'
