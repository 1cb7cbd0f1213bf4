-- One process at a time sends webhooks: takes the lease, keeps it, or (0 ms) gives it up.
-- KEYS: lease, since. ARGV: who asks, ms. Answers {1 if it is the asker's, when webhooks were first sent, now}, both in ms.
local time = redis.call('TIME')
local now = string.format('%d', time[1] * 1000 + math.floor(time[2] / 1000))
local holder = redis.call('GET', KEYS[1])
local mine = 0
if holder == ARGV[1] and ARGV[2] == '0' then
  redis.call('DEL', KEYS[1])
elseif ARGV[2] ~= '0' and (not holder or holder == ARGV[1]) then
  redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
  redis.call('SETNX', KEYS[2], now)
  mine = 1
end
return {mine, redis.call('GET', KEYS[2]) or now, now}
