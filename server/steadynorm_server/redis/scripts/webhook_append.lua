-- Appends runs' new events to the queues of webhooks, once, whichever process does it. Of each run and kind that waits, a
-- queue holds the first events and its counts hold the number of all, so that no run fills it.
-- KEYS: cursors, since, then for each webhook its queue and its counts. ARGV: events of a run and kind, cap of a queue,
-- then for each run a JSON list: run id, cursor that the events were read after ('': none), id of the last one, and a list
-- of {number of the webhook, field of its counts, how many, the first of them as strings}.
-- Returns {since when webhooks are sent (ms), how many of the first events are only counted because the queue was full, now
-- (ms)}: by this clock, which numbers the events, and not by that of a server.
local time, most, dropped = redis.call('TIME'), tonumber(ARGV[1]), 0
local now = string.format('%d', time[1] * 1000 + math.floor(time[2] / 1000))
redis.call('SETNX', KEYS[2], now)
for i = 3, #KEYS, 2 do
  redis.pcall('XGROUP', 'CREATE', KEYS[i], 'sender', '0', 'MKSTREAM') -- an error if there is one, which is as good
end
for i = 3, #ARGV do
  local run = cjson.decode(ARGV[i])
  if (redis.call('HGET', KEYS[1], run[1]) or '') == run[2] then
    redis.call('HSET', KEYS[1], run[1], run[3])
    for _, found in ipairs(run[4]) do
      local queue, counts = KEYS[2 * found[1] + 1], KEYS[2 * found[1] + 2]
      local shown = most - (redis.call('HINCRBY', counts, found[2], found[3]) - found[3])
      local free = ARGV[2] - (redis.call('XLEN', queue) - redis.call('XPENDING', queue, 'sender')[1])
      for place = 1, math.min(#found[4], shown) do
        if place <= free then
          redis.call('XADD', queue, '*', 'event', found[4][place])
        else
          dropped = dropped + 1
        end
      end
    end
  end
end
return {redis.call('GET', KEYS[2]), dropped, now}
