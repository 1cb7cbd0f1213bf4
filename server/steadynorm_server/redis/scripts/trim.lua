-- Drops the oldest entries of a run's history, the finest levels first, until it fits into its limit.
-- KEYS: run, then the streams of all levels, finest first. ARGV: bytes that the history may take, bytes that each level but
-- the coarsest retains while others have more, how many entries to drop at most, then per stream its level's name and
-- whether it is a coarsest one (1).
-- Never drops an entry that the next level does not contain yet, nor a level's newest one. Returns the number dropped.
local states = cjson.decode(redis.call('HGET', KEYS[1], 'history') or '{}')
local limit, share, most = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local levels, total, dropped = {}, 0, 0
for i = 2, #KEYS do
  local name = ARGV[2 * i]
  local state = states[name] or {1, 0}
  local bytes = tonumber(redis.call('HGET', KEYS[1], 'bytes:' .. name) or '0')
  local top = ARGV[2 * i + 1] == '1'
  local last = state[1] - 2
  if not top and state[2] < last then
    last = state[2]
  end
  levels[#levels + 1] = {stream = KEYS[i], name = name, top = top, bytes = bytes, last = last}
  total = total + bytes
end

local function shrink(level, least)
  while total > limit and dropped < most do
    local oldest = redis.call('XRANGE', level.stream, '-', '+', 'COUNT', 1)[1]
    if not oldest or tonumber(string.match(oldest[1], '^%d+')) > level.last then
      return
    end
    local size = #oldest[2][6]
    if level.bytes - size < least then
      return
    end
    redis.call('XDEL', level.stream, oldest[1])
    level.bytes, total, dropped = level.bytes - size, total - size, dropped + 1
    redis.call('HINCRBY', KEYS[1], 'bytes:' .. level.name, -size)
    local trimmed = tonumber(redis.call('HGET', KEYS[1], 'trimmed:' .. level.name) or '-1')
    if tonumber(oldest[2][4]) > trimmed then
      redis.call('HSET', KEYS[1], 'trimmed:' .. level.name, oldest[2][4])
    end
  end
end

for _, level in ipairs(levels) do
  if not level.top then
    shrink(level, share)
  end
end
for _, level in ipairs(levels) do
  shrink(level, 0)
end
return dropped
