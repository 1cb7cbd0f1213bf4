-- Sets aside all that waits for a webhook, for its next message, unless something is set aside already or is on its way.
-- KEYS: message, queue, counts, gathered, gathered counts.
if redis.call('EXISTS', KEYS[1], KEYS[4]) == 0 and redis.call('EXISTS', KEYS[2]) == 1 then
  redis.call('RENAME', KEYS[2], KEYS[4])
  redis.call('RENAME', KEYS[3], KEYS[5])
end
return 1
