-- Changes the desired settings, provided that the expected revision is still the newest.
-- KEYS: run, audit, outcomes, events. ARGV: expected revision, new settings, audit entry, its cap, channel, run id, hash
-- of the audit entry that ours is chained to (empty: none), hash of ours, id of this change: the last eight are kept, so
-- that one which is asked for again, since its reply was lost, is made once; for a schedule or a rule also: expected
-- automation_version (empty: none yet), field to write with the change, its value, event, cap of the events.
-- Returns {'ok'}, {'not_found'}, {'ended', state}, {'conflict', revision}, {'automation_conflict'} when schedules or rules
-- were written meanwhile, or {'audit_head', head} when another entry was added: chain to that one instead.
local stored = redis.call('HMGET', KEYS[1], 'desired_revision', 'state', 'audit_head', 'automation_version', 'changes_made')
if not stored[1] then
  return {'not_found'}
end
local made = stored[5] or ''
if string.find(made, ARGV[9], 1, true) then
  return {'ok'}
end
if stored[2] ~= 'running' then
  return {'ended', stored[2]}
end
if stored[1] ~= ARGV[1] then
  return {'conflict', stored[1]}
end
if ARGV[10] and (stored[4] or '') ~= ARGV[10] then
  return {'automation_conflict'}
end
local head = stored[3] or ''
if head ~= ARGV[7] then
  return {'audit_head', head}
end
local revision = string.format('%d', tonumber(ARGV[1]) + 1)
made = string.sub(ARGV[9] .. made, 1, 8 * #ARGV[9])
redis.call('HSET', KEYS[1], 'desired_revision', revision, 'desired', ARGV[2], 'audit_head', ARGV[8], 'changes_made', made)
redis.call('HDEL', KEYS[3], revision) -- an agent's report on that number from before this Redis lost its data
redis.call('XADD', KEYS[2], 'MAXLEN', ARGV[4], '*', 'entry', ARGV[3])
if ARGV[10] then
  redis.call('HSET', KEYS[1], ARGV[11], ARGV[12])
  redis.call('HINCRBY', KEYS[1], 'automation_version', 1)
  redis.call('XADD', KEYS[4], 'MAXLEN', ARGV[14], '*', 'event', ARGV[13])
end
-- The change stands: a user without this channel must not undo it. Agents learn of it with their next batch anyway.
redis.pcall('PUBLISH', ARGV[5], ARGV[6])
return {'ok'}
