-- Gives a run a place among those that a token may have, first come, first served.
-- KEYS: the token's runs. ARGV: the run, now, how many there may be (empty: any number), then pairs of a member that
-- is no run any more and its score. Returns {1, number of runs} if the run has a place, {0, number} if there is none.
for at = 4, #ARGV, 2 do
  if tonumber(redis.call('ZSCORE', KEYS[1], ARGV[at]) or 'nan') == tonumber(ARGV[at + 1]) then
    redis.call('ZREM', KEYS[1], ARGV[at])
  end
end
local count = redis.call('ZCARD', KEYS[1])
if not redis.call('ZSCORE', KEYS[1], ARGV[1]) and ARGV[3] ~= '' and count >= tonumber(ARGV[3]) then
  return {0, count}
end
redis.call('ZADD', KEYS[1], ARGV[2], ARGV[1])
return {1, redis.call('ZCARD', KEYS[1])}
