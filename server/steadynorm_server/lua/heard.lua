-- Notes until when a run's agent listens for changed settings; a later moment that is known already stays.
-- KEYS: run. ARGV: Unix seconds. Answers whether there is such a run.
local now = redis.call('HMGET', KEYS[1], 'name', 'listening')
if not now[1] then
  return 0
end
if tonumber(ARGV[1]) > tonumber(now[2] or '0') then
  redis.call('HSET', KEYS[1], 'listening', ARGV[1])
end
return 1
