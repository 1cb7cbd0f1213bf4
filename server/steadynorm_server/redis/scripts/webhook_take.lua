-- Puts runs' new events into the queues of the webhooks that are told of them, once, whoever else does it now. Of each run
-- and kind a queue holds the first ones and a count of all, so that no run can fill it.
-- KEYS: cursors, then for each webhook its queue and its counts. ARGV: events of a run and kind, cap of a queue, then for
-- each run a JSON list: run id, cursor that the events were read after ('': none), id of the last one, and a list of
-- {number of the webhook, field of its counts, how many, the first of them as strings}.
-- Answers how many of the first ones are only counted, because the queue was full.
local most, cap, left_out = tonumber(ARGV[1]), tonumber(ARGV[2]), 0
for i = 3, #ARGV do
  local run = cjson.decode(ARGV[i])
  if (redis.call('HGET', KEYS[1], run[1]) or '') == run[2] then
    redis.call('HSET', KEYS[1], run[1], run[3])
    for _, found in ipairs(run[4]) do
      local queue, counts = KEYS[2 * found[1]], KEYS[2 * found[1] + 1]
      local room = most - (redis.call('HINCRBY', counts, found[2], found[3]) - found[3])
      for place, event in ipairs(found[4]) do
        if place > room then
          break
        elseif redis.call('XLEN', queue) < cap then
          redis.call('XADD', queue, '*', 'event', event)
        else
          left_out = left_out + 1
        end
      end
    end
  end
end
return left_out
