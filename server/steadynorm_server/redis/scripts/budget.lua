-- Takes one of a token's changes of a day, or gives it back.
-- KEYS: the token's count. ARGV: day, how many there may be, 1 to take or -1 to give back.
-- Returns how many are taken then, or -1 if there were as many as there may be.
if redis.call('HGET', KEYS[1], 'day') ~= ARGV[1] then
  redis.call('HSET', KEYS[1], 'day', ARGV[1], 'taken', '0')
end
local taken = tonumber(redis.call('HGET', KEYS[1], 'taken') or '0') + tonumber(ARGV[3])
if taken > tonumber(ARGV[2]) or taken < 0 then
  return -1
end
redis.call('HSET', KEYS[1], 'taken', string.format('%d', taken))
redis.call('EXPIRE', KEYS[1], 172800)
return taken
