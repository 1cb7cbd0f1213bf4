-- Makes the queue's first events the webhook's message, unless it has one or they are in one already.
-- KEYS: message, queue. ARGV: message id, body, when its first event was queued (ms), then the events' entry ids.
-- Answers whether it did. Entries leave at the front only, so with the first one all are there.
if redis.call('EXISTS', KEYS[1]) == 1 or #redis.call('XRANGE', KEYS[2], ARGV[4], ARGV[4]) == 0 then
  return 0
end
redis.call('HSET', KEYS[1], 'id', ARGV[1], 'body', ARGV[2], 'since', ARGV[3], 'attempts', '0', 'due', '0')
for i = 4, #ARGV do
  redis.call('XDEL', KEYS[2], ARGV[i])
end
return 1
