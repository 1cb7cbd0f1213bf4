-- Claims a webhook's next message: the pending one if it is due, else a new one of all that waits. No message is made while
-- one is pending, so that messages keep their order. A pending message is due when its first entry has been idle for ARGV[2]:
-- the idle time is set so that this is the case when a claim expires, or when a retry is scheduled.
-- KEYS: queue, counts, pause (exists until the next message may be made). ARGV: id for a new message, idle time of a due
-- message, of one just claimed, least age of the first event, time to the message after this one (all in ms), cap of a queue.
-- Returns {ms until it is worth asking again; -1: nothing waits} or {0, attempts with this one, entries}.
local queue, time = KEYS[1], redis.call('TIME')
local first = redis.call('XRANGE', queue, '-', '+', 'COUNT', 1)[1]
if not first then
  return {-1}
end
local pending, attempts, entries = redis.call('XPENDING', queue, 'sender', '-', '+', 1)[1], 1, nil
if pending then
  if pending[3] < tonumber(ARGV[2]) then
    return {ARGV[2] - pending[3]}
  end
  attempts = pending[4] + 1
  entries = redis.call('XAUTOCLAIM', queue, 'sender', 'sender', 0, '0-0', 'COUNT', ARGV[6] + 1)[2]
else
  local age = time[1] * 1000 + time[2] / 1000 - tonumber(string.match(first[1], '%d+'))
  local wait = math.max(redis.call('PTTL', KEYS[3]), math.ceil(ARGV[4] - age))
  if wait > 0 then
    return {wait}
  end
  redis.call('XADD', queue, '*', 'id', ARGV[1], 'counts', cjson.encode(redis.call('HGETALL', KEYS[2])))
  redis.call('DEL', KEYS[2])
  if ARGV[5] ~= '0' then
    redis.call('SET', KEYS[3], '', 'PX', ARGV[5])
  end
  entries = redis.call('XREADGROUP', 'GROUP', 'sender', 'sender', 'COUNT', ARGV[6] + 1, 'STREAMS', queue, '>')[1][2]
end
redis.call('XCLAIM', queue, 'sender', 'sender', 0, first[1], 'IDLE', ARGV[3], 'JUSTID')
return {0, attempts, entries}
