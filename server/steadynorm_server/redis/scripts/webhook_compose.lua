-- Makes what was gathered the webhook's message, unless it has one or that is in one already.
-- KEYS: message, gathered, gathered counts. ARGV: message id, body, when its first event was queued (ms), entry of that.
-- Answers whether it did.
if redis.call('EXISTS', KEYS[1]) == 1 or #redis.call('XRANGE', KEYS[2], ARGV[4], ARGV[4]) == 0 then
  return 0
end
redis.call('HSET', KEYS[1], 'id', ARGV[1], 'body', ARGV[2], 'since', ARGV[3], 'attempts', '0', 'due', '0')
redis.call('UNLINK', KEYS[2], KEYS[3])
return 1
