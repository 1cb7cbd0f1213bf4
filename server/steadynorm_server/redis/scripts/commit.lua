-- Stores one telemetry batch, whole or not at all.
-- KEYS: run, events, outcomes, peaks, notes, then one stream per append (repeated where several go to one).
-- ARGV: how many fields of the run are expected, each with its value (empty: absent); how many are set, each with its
-- value; what few batches bring, as JSON (empty: nothing); peaks (empty: unchanged); then per append level, id, first and
-- last step, budget, last entry that may be dropped, block.
-- Returns {'ok', desired revision, desired settings}, or {'conflict'} when the run is not what the plan was made for. Asked
-- again since the reply was lost, it finds what it set itself: the batch's number, and when it was planned.
local names = {}
for i = 1, tonumber(ARGV[1]) do
  names[i] = ARGV[2 * i]
end
local values = redis.call('HMGET', KEYS[1], unpack(names))
local at = 2 * #names + 2
local last = at + 2 * tonumber(ARGV[at])
local function is_stored()
  local expected, set = {}, {}
  for i = 2, 2 * #names, 2 do
    expected[ARGV[i]] = ARGV[i + 1]
  end
  for i = at + 1, last, 2 do
    set[ARGV[i]] = ARGV[i + 1]
  end
  local now = redis.call('HMGET', KEYS[1], 'incarnation', 'sequence', 'last_seen', 'desired_revision', 'desired')
  if now[1] == expected.incarnation and now[2] == set.sequence and now[3] == set.last_seen then
    return {'ok', now[4], now[5]}
  end
  return {'conflict'}
end
for i = 1, #names do
  if (values[i] or '') ~= ARGV[2 * i + 1] then
    return is_stored()
  end
end

-- As in register.lua, since a script takes nothing from another one.
local function store_now()
  local server, replication = redis.pcall('INFO', 'server'), redis.pcall('INFO', 'replication')
  if type(server) ~= 'string' or type(replication) ~= 'string' then
    return ''
  end
  return (string.match(server, 'run_id:(%x+)') or '') .. (string.match(replication, 'master_replid:(%x+)') or '')
end
redis.call('HSET', KEYS[1], unpack(ARGV, at + 1, last))
if ARGV[last + 1] ~= '' then
  local plan = cjson.decode(ARGV[last + 1])
  if plan.adopt and tonumber(plan.adopt.revision) > tonumber(redis.call('HGET', KEYS[1], 'desired_revision')) then
    local store = store_now()
    if store == '' or redis.call('HGET', KEYS[1], 'store') ~= store then -- else nothing was lost: see register.lua
      redis.call('HSET', KEYS[1], 'desired_revision', plan.adopt.revision, 'desired', plan.adopt.settings,
        'rollback_step', plan.adopt.step, 'rollback_time', plan.adopt.now, 'store', store)
    end
  end
  for _, outcome in ipairs(plan.outcomes) do
    redis.call('HSET', KEYS[3], outcome.revision, outcome.report)
  end
  if redis.call('HLEN', KEYS[3]) > plan.max_outcomes * 1.05 then
    local known = redis.call('HKEYS', KEYS[3])
    table.sort(known, function(one, other) return tonumber(one) < tonumber(other) end)
    for i = 1, #known - plan.max_outcomes do
      redis.call('HDEL', KEYS[3], known[i])
    end
  end
  for _, event in ipairs(plan.events) do
    redis.call('XADD', KEYS[2], 'MAXLEN', plan.max_events, '*', 'event', event)
  end
  for _, note in ipairs(plan.notes) do
    redis.call('XADD', KEYS[5], '*', 'note', note)
  end
end
if ARGV[last + 2] ~= '' then
  redis.call('SET', KEYS[4], ARGV[last + 2])
end

at = last + 3
for i = 6, #KEYS do
  local stream, level, id, rolled, block = KEYS[i], ARGV[at], ARGV[at + 1] .. '-0', tonumber(ARGV[at + 5]), ARGV[at + 6]
  redis.call('XADD', stream, id, 'first', ARGV[at + 2], 'last', ARGV[at + 3], 'block', block)
  local bytes, budget = redis.call('HINCRBY', KEYS[1], 'bytes:' .. level, #block), tonumber(ARGV[at + 4])
  -- Oldest first, and never an entry that the next level does not contain yet.
  while bytes > budget do
    local oldest = redis.call('XRANGE', stream, '-', '+', 'COUNT', 1)[1]
    if tonumber(string.match(oldest[1], '^%d+')) > rolled or oldest[1] == id then
      break
    end
    local fields = oldest[2]
    redis.call('XDEL', stream, oldest[1])
    bytes = redis.call('HINCRBY', KEYS[1], 'bytes:' .. level, -#fields[6])
    local trimmed = tonumber(redis.call('HGET', KEYS[1], 'trimmed:' .. level) or '-1')
    if tonumber(fields[4]) > trimmed then
      redis.call('HSET', KEYS[1], 'trimmed:' .. level, fields[4])
    end
  end
  at = at + 7
end
local desired = redis.call('HMGET', KEYS[1], 'desired_revision', 'desired')
return {'ok', desired[1], desired[2]}
