-- Stores one telemetry batch, whole or not at all.
-- KEYS: run, events, outcomes, peaks, then one stream per append (repeated where several go to one).
-- ARGV: plan as JSON, peaks (empty: unchanged), then one block per append.
-- Returns {'ok', desired revision, desired settings}, or {'conflict'} when the run is not what the plan was made for.
local plan = cjson.decode(ARGV[1])
for field, value in pairs(plan.expected) do
  if (redis.call('HGET', KEYS[1], field) or '') ~= value then
    return {'conflict'}
  end
end

redis.call('HSET', KEYS[1], unpack(plan.set))
if plan.adopt and tonumber(plan.adopt.revision) > tonumber(redis.call('HGET', KEYS[1], 'desired_revision')) then
  redis.call('HSET', KEYS[1], 'desired_revision', plan.adopt.revision, 'desired', plan.adopt.settings,
    'rollback_step', plan.adopt.step, 'rollback_time', plan.adopt.now)
end
for _, outcome in ipairs(plan.outcomes) do
  redis.call('HSET', KEYS[3], outcome.revision, outcome.report)
end
if redis.call('HLEN', KEYS[3]) > plan.max_outcomes * 1.05 then
  local known = redis.call('HKEYS', KEYS[3])
  table.sort(known, function(one, other) return tonumber(one) < tonumber(other) end)
  for i = 1, #known - plan.max_outcomes do
    redis.call('HDEL', KEYS[3], known[i])
  end
end
for _, event in ipairs(plan.events) do
  redis.call('XADD', KEYS[2], 'MAXLEN', plan.max_events, '*', 'event', event)
end
if ARGV[2] ~= '' then
  redis.call('SET', KEYS[4], ARGV[2])
end

for i, append in ipairs(plan.appends) do
  local stream, block = KEYS[4 + i], ARGV[2 + i]
  redis.call('XADD', stream, append.id .. '-0', 'first', append.first, 'last', append.last, 'block', block)
  local bytes = redis.call('HINCRBY', KEYS[1], 'bytes:' .. append.level, #block)
  -- Oldest first, and never an entry that the next level does not contain yet.
  while bytes > append.budget do
    local oldest = redis.call('XRANGE', stream, '-', '+', 'COUNT', 1)[1]
    if tonumber(string.match(oldest[1], '^%d+')) > append.rolled or oldest[1] == append.id .. '-0' then
      break
    end
    local fields = oldest[2]
    redis.call('XDEL', stream, oldest[1])
    bytes = redis.call('HINCRBY', KEYS[1], 'bytes:' .. append.level, -#fields[6])
    local trimmed = tonumber(redis.call('HGET', KEYS[1], 'trimmed:' .. append.level) or '-1')
    if tonumber(fields[4]) > trimmed then
      redis.call('HSET', KEYS[1], 'trimmed:' .. append.level, fields[4])
    end
  end
end
local desired = redis.call('HMGET', KEYS[1], 'desired_revision', 'desired')
return {'ok', desired[1], desired[2]}
