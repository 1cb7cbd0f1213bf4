-- Changes the desired settings, provided that nobody was faster.
-- KEYS: run, audit, outcomes, events. ARGV: expected revision, new settings, audit entry, its cap, channel, run id, hash
-- of the audit entry that ours was chained to (empty: none), hash of ours; for a schedule or a rule also: expected count
-- of writes of those (empty: none yet), the field that it stands in, what is written there, event, cap of the events.
-- Answers {'ok'}, {'gone'}, {'ended', state}, {'moved', revision}, {'orders'} when schedules or rules were written
-- meanwhile, or {'fork', head}: chain it to that one instead.
local now = redis.call('HMGET', KEYS[1], 'desired_revision', 'state', 'audit_head', 'orders')
if not now[1] then
  return {'gone'}
end
if now[2] ~= 'running' then
  return {'ended', now[2]}
end
if now[1] ~= ARGV[1] then
  return {'moved', now[1]}
end
if ARGV[9] and (now[4] or '') ~= ARGV[9] then
  return {'orders'}
end
local head = now[3] or ''
if head ~= ARGV[7] then
  return {'fork', head}
end
local revision = string.format('%d', tonumber(ARGV[1]) + 1)
redis.call('HSET', KEYS[1], 'desired_revision', revision, 'desired', ARGV[2], 'audit_head', ARGV[8])
redis.call('HDEL', KEYS[3], revision) -- an agent's word on that number from before this store lost its data
redis.call('XADD', KEYS[2], 'MAXLEN', ARGV[4], '*', 'entry', ARGV[3])
if ARGV[9] then
  redis.call('HSET', KEYS[1], ARGV[10], ARGV[11])
  redis.call('HINCRBY', KEYS[1], 'orders', 1)
  redis.call('XADD', KEYS[4], 'MAXLEN', ARGV[13], '*', 'event', ARGV[12])
end
redis.call('PUBLISH', ARGV[5], ARGV[6])
return {'ok'}
