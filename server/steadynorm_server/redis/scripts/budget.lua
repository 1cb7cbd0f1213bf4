-- Takes one of a token's changes of a day, or gives it back.
-- KEYS: the token's count. ARGV: day, how many there may be, 1 to take or -1 to give back, id of this request.
-- Returns how many are taken then, or -1 if there were as many as there may be, or the day is over to which one is given
-- back. A day begins once: the one before it is that of a server whose clock is late, and what it takes is of the new one.
-- A clock that was wrong by days is forgotten when the count expires.
local stored = redis.call('HMGET', KEYS[1], 'day', 'taken', 'requests')
local day, taken, requests = tonumber(stored[1] or '-1'), tonumber(stored[2] or '0'), stored[3] or ''
if string.find(requests, ARGV[4], 1, true) then
  return taken -- its reply was lost
end
local given, change = tonumber(ARGV[1]), tonumber(ARGV[3])
if given > day then
  day, taken = given, 0
end
if taken + change > tonumber(ARGV[2]) or taken + change < 0 or (change < 0 and given < day) then
  return -1
end
requests = string.sub(ARGV[4] .. requests, 1, 8 * #ARGV[4])
redis.call('HSET', KEYS[1], 'day', string.format('%d', day), 'taken', string.format('%d', taken + change), 'requests', requests)
if given == day then
  redis.call('EXPIRE', KEYS[1], 172800)
end
return taken + change
