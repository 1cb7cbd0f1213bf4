-- The blocks of a rollup scheme that may hold steps of a span, read atomically.
-- KEYS: run, then the streams of the chosen level and of all finer ones, coarsest first.
-- ARGV: first step, last step, then the levels' names. Of a finer level only what is not rolled up yet is read.
-- Returns one list of blocks per stream.
local states = cjson.decode(redis.call('HGET', KEYS[1], 'history') or '{}')
local first, last = tonumber(ARGV[1]), tonumber(ARGV[2])
local found = {}
for i = 2, #KEYS do
  local from = '-'
  if i > 2 then
    local state = states[ARGV[i + 1]]
    from = '(' .. string.format('%d', state and state[2] or 0) .. '-0'
  end
  local blocks = {}
  for _, entry in ipairs(redis.call('XRANGE', KEYS[i], from, '+')) do
    local fields = entry[2]
    if tonumber(fields[4]) >= first and tonumber(fields[2]) <= last then
      blocks[#blocks + 1] = fields[6]
    end
  end
  found[#found + 1] = blocks
end
return found
