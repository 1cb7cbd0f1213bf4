-- Appends lines of the audit stream to the queue of one webhook.
-- KEYS: queue. ARGV: cap of a queue, then the lines. Returns how many were left out because the queue was full.
redis.pcall('XGROUP', 'CREATE', KEYS[1], 'sender', '0', 'MKSTREAM') -- an error if there is one, which is as good
local free = ARGV[1] - (redis.call('XLEN', KEYS[1]) - redis.call('XPENDING', KEYS[1], 'sender')[1])
for i = 2, #ARGV do
  if i - 1 <= free then
    redis.call('XADD', KEYS[1], '*', 'line', ARGV[i])
  end
end
return math.max(0, #ARGV - 1 - math.max(0, free))
