-- Changes the desired settings, provided that the expected revision is still the newest.
-- KEYS: run, audit, outcomes, events. ARGV: expected revision, new settings, audit entry, its cap, channel, run id, hash
-- of the audit entry that ours is chained to (empty: none), hash of ours; for a schedule or a rule also: expected
-- automation_version (empty: none yet), field to write with the change, its value, event, cap of the events.
-- Returns {'ok'}, {'not_found'}, {'ended', state}, {'conflict', revision}, {'automation_conflict'} when schedules or rules
-- were written meanwhile, or {'audit_head', head} when another entry was added: chain to that one instead. Asked again
-- since the reply was lost, it finds its own entry, which says that the change was made.
local function unless_made(answer)
  for _, found in ipairs(redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 16)) do
    if string.find(found[2][2], '"' .. ARGV[8] .. '"', 1, true) then
      return {'ok'}
    end
  end
  return answer
end
local stored = redis.call('HMGET', KEYS[1], 'desired_revision', 'state', 'audit_head', 'automation_version')
if not stored[1] then
  return {'not_found'}
end
if stored[2] ~= 'running' then
  return unless_made({'ended', stored[2]})
end
if stored[1] ~= ARGV[1] then
  return unless_made({'conflict', stored[1]})
end
if ARGV[9] and (stored[4] or '') ~= ARGV[9] then
  return {'automation_conflict'}
end
local head = stored[3] or ''
if head ~= ARGV[7] then
  return {'audit_head', head}
end
local revision = string.format('%d', tonumber(ARGV[1]) + 1)
redis.call('HSET', KEYS[1], 'desired_revision', revision, 'desired', ARGV[2], 'audit_head', ARGV[8])
redis.call('HDEL', KEYS[3], revision) -- an agent's report on that number from before this Redis lost its data
redis.call('XADD', KEYS[2], 'MAXLEN', ARGV[4], '*', 'entry', ARGV[3])
if ARGV[9] then
  redis.call('HSET', KEYS[1], ARGV[10], ARGV[11])
  redis.call('HINCRBY', KEYS[1], 'automation_version', 1)
  redis.call('XADD', KEYS[4], 'MAXLEN', ARGV[13], '*', 'event', ARGV[12])
end
-- The change stands: a user without this channel must not undo it. Agents learn of it with their next batch anyway.
redis.pcall('PUBLISH', ARGV[5], ARGV[6])
return {'ok'}
