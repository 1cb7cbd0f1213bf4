-- What a run's agent is to follow. Notes until when it listens for changes; a later moment that is known already stays.
-- KEYS: run. ARGV: Unix seconds, or 0: nobody says that it listens.
-- Answers name, desired revision and desired settings; nothing of a run that is not there.
local now = redis.call('HMGET', KEYS[1], 'name', 'desired_revision', 'desired', 'listening')
if not now[1] then
  return {}
end
if tonumber(ARGV[1]) > tonumber(now[4] or '0') then
  redis.call('HSET', KEYS[1], 'listening', ARGV[1])
end
return {now[1], now[2], now[3]}
