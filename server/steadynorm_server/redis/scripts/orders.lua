-- Writes schedules or watch rules, provided that neither changed meanwhile.
-- KEYS: run, events. ARGV: expected count of such writes (empty: none yet), field, its text, event (empty: none), cap.
-- Answers 'ok', 'gone' or 'moved'.
local now = redis.call('HMGET', KEYS[1], 'name', 'orders')
if not now[1] then
  return 'gone'
end
if (now[2] or '') ~= ARGV[1] then
  return 'moved'
end
redis.call('HSET', KEYS[1], ARGV[2], ARGV[3])
redis.call('HINCRBY', KEYS[1], 'orders', 1)
if ARGV[4] ~= '' then
  redis.call('XADD', KEYS[2], 'MAXLEN', ARGV[5], '*', 'event', ARGV[4])
end
return 'ok'
