-- Puts a run's new events into the queues of the webhooks that are told of them, once, whoever else does it now.
-- KEYS: cursors, then one queue each. ARGV: run id, cursor that the events were read after ('': none), id of the last one,
-- cap of a queue, then for each queue its events as a JSON list of strings.
-- Answers how many old ones the queues dropped, or -1 if somebody was faster.
if (redis.call('HGET', KEYS[1], ARGV[1]) or '') ~= ARGV[2] then
  return -1
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
local dropped = 0
for i = 2, #KEYS do
  for _, event in ipairs(cjson.decode(ARGV[3 + i])) do
    if redis.call('XLEN', KEYS[i]) >= tonumber(ARGV[4]) then
      dropped = dropped + 1
    end
    redis.call('XADD', KEYS[i], 'MAXLEN', ARGV[4], '*', 'event', event)
  end
end
return dropped
