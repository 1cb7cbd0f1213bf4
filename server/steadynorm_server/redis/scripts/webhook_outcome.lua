-- What came of sending a message. KEYS: message. ARGV: its id, when to send it again as Unix seconds ('': it is over).
if redis.call('HGET', KEYS[1], 'id') ~= ARGV[1] then
  return 0
end
if ARGV[2] == '' then
  redis.call('DEL', KEYS[1])
else
  redis.call('HINCRBY', KEYS[1], 'attempts', 1)
  redis.call('HSET', KEYS[1], 'due', ARGV[2])
end
return 1
