-- Writes one field of the run (schedules, rules, retention or lifecycle), unless one of these was written since it was read.
-- KEYS: run, events. ARGV: expected automation_version (empty: none yet), field, its value, event (empty: none), cap, id of
-- this write: the last eight are kept, so that one which is asked for again, since its reply was lost, is made once.
-- Returns 'ok', 'not_found' or 'conflict'.
local stored = redis.call('HMGET', KEYS[1], 'name', 'automation_version', 'automation_writes')
if not stored[1] then
  return 'not_found'
end
if (stored[2] or '') ~= ARGV[1] then
  return string.find(stored[3] or '', ARGV[6], 1, true) and 'ok' or 'conflict'
end
local writes = string.sub(ARGV[6] .. (stored[3] or ''), 1, 8 * #ARGV[6])
redis.call('HSET', KEYS[1], ARGV[2], ARGV[3], 'automation_writes', writes)
redis.call('HINCRBY', KEYS[1], 'automation_version', 1)
if ARGV[4] ~= '' then
  redis.call('XADD', KEYS[2], 'MAXLEN', ARGV[5], '*', 'event', ARGV[4])
end
return 'ok'
