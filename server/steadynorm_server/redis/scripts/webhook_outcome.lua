-- Records what came of sending a message. KEYS: queue. ARGV: idle time (ms) that makes it due when it is to be sent again
-- ('': it is done), its attempts, then the ids of its entries. A claim that another process took over is left alone.
if ARGV[1] ~= '' then
  local pending = redis.call('XPENDING', KEYS[1], 'sender', ARGV[3], ARGV[3], 1)[1]
  if pending and pending[4] == tonumber(ARGV[2]) then
    redis.call('XCLAIM', KEYS[1], 'sender', 'sender', 0, ARGV[3], 'IDLE', ARGV[1], 'JUSTID')
  end
  return 0
end
for i = 3, #ARGV do
  redis.call('XACK', KEYS[1], 'sender', ARGV[i])
  redis.call('XDEL', KEYS[1], ARGV[i])
end
return 1
