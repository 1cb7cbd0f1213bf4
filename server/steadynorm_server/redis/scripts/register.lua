-- Registers an agent: a new run, a new incarnation of a known one, or the same agent again.
-- KEYS: run, parameters, events, configuration. ARGV: plan as JSON, parameter table, configuration.
-- Returns {'ok', incarnation, acknowledged, desired revision, desired settings, created, whether the agent is another one or
-- seems never to have been told so, last sequence stored of its previous instance ('' if not known), whether the desired
-- settings or their number came from the agent}, {'name', stored name} for a run of another name, {'table'} for another
-- parameter table, or {'revision'} for one that is beyond what may be claimed. Asked again since the reply was lost, it
-- knows the plan's id.
local plan = cjson.decode(ARGV[1])
local known = redis.call('HMGET', KEYS[1], 'incarnation', 'instance', 'digest', 'desired_revision', 'name', 'state',
  'sequence', 'previous_instance', 'previous_sequence', 'desired', 'registered_revision', 'registration', 'store')
if known[1] and known[5] ~= plan.name then
  return {'name', known[5]}
end
if known[1] and known[3] ~= plan.digest then
  return {'table'}
end
-- Operators' changes count on from a claimed number: at 2^53 Lua counts no further, and no change would ever be newer.
local claimed = tonumber(plan.applied_revision)
if claimed > plan.most_claimed and claimed > tonumber(known[4] or '0') then
  return {'revision'}
end

local same = known[1] and plan.instance ~= '' and known[2] == plan.instance
local incarnation = known[1] or '0'
local adopted = '0'
if not same then
  incarnation = string.format('%d', tonumber(incarnation) + 1)
end
-- The last sequence of its previous instance shows an agent whether a batch arrived whose answer was lost. It is stored, in
-- case this answer is lost too; for an agent that asks about no known instance, that of the one which it replaces.
local previous = ''
if plan.previous_instance ~= '' then
  if not same and known[2] == plan.previous_instance then
    previous = known[7]
  elseif known[8] == plan.previous_instance then
    previous = known[9]
  end
end
local function answer(flags)
  local now = redis.call('HMGET', KEYS[1], 'incarnation', 'sequence', 'desired_revision', 'desired')
  local created, another, adopted = string.match(flags, '(%d)(%d)(%d)')
  return {'ok', now[1], now[2], now[3], now[4], created, another, previous, adopted}
end
local id, flags = string.match(known[12] or '', '^(.*) (%d+)$')
if known[1] and id == plan.id then
  return answer(flags)
end
-- Which process with which history this Redis is; '' where INFO is forbidden.
local function store_now()
  local server, replication = redis.pcall('INFO', 'server'), redis.pcall('INFO', 'replication')
  if type(server) ~= 'string' or type(replication) ~= 'string' then
    return ''
  end
  return (string.match(server, 'run_id:(%x+)') or '') .. (string.match(replication, 'master_replid:(%x+)') or '')
end
local store = store_now()
redis.call('SET', KEYS[4], ARGV[3])
redis.call('HSET', KEYS[1], 'store', store, 'searched', plan.searched, 'info', plan.info, 'last_seen', plan.now, 'state', 'running', 'end_reason', '')
if not known[1] then
  redis.call('SET', KEYS[2], ARGV[2])
  redis.call('HSET', KEYS[1], 'name', plan.name, 'digest', plan.digest, 'started', plan.now, 'bytes:parameters', #ARGV[2],
    'desired_revision', plan.applied_revision, 'desired', plan.settings)
  adopted = '1'
elseif claimed > tonumber(known[4]) and store ~= '' and known[13] == store then
  -- This very Redis has held the run since an agent last registered, and has lost nothing: nobody made that revision. An
  -- agent must not change settings by claiming one; theirs get a number that the agent does not know.
  redis.call('HSET', KEYS[1], 'desired_revision', string.format('%d', claimed + 1))
  adopted = '1'
elseif claimed > tonumber(known[4]) then
  -- The agent knows a revision that Redis lost: the settings that it runs with are adopted.
  redis.call('HSET', KEYS[1], 'desired_revision', plan.applied_revision, 'desired', plan.settings,
    'rollback_step', plan.step, 'rollback_time', plan.now)
  adopted = '1'
elseif plan.applied_revision == known[4] and plan.applied_revision ~= '0' and plan.settings ~= known[10] then
  -- Redis was restored from a backup and reused a number that the agent knows with other settings: the newest desired
  -- settings get a number that is new to both. At revision 0 nothing was changed yet: each process has its own settings.
  redis.call('HSET', KEYS[1], 'desired_revision', string.format('%d', tonumber(known[4]) + 1))
  adopted = '1'
end
if not same then
  local instance, sequence = plan.previous_instance, previous
  if previous == '' then
    instance, sequence = known[2] or '', known[7] or ''
  end
  redis.call('HSET', KEYS[1], 'incarnation', incarnation, 'instance', plan.instance, 'sequence', '0',
    'stalled', '', 'registered_step', plan.step, 'applied_revision', plan.applied_revision, 'applied_step', plan.step,
    'applied', plan.settings, 'previous_instance', instance, 'previous_sequence', sequence,
    'registered_revision', redis.call('HGET', KEYS[1], 'desired_revision'))
end
if not same or known[6] ~= 'running' then
  local event = cjson.decode(plan.event)
  event.value = tonumber(incarnation)
  redis.call('XADD', KEYS[3], 'MAXLEN', plan.max_events, '*', 'event', cjson.encode(event))
end
-- Nothing is stored of it, and nobody changed the settings since it began: the server that took it may have ended before it
-- did what comes with another agent.
local unanswered = same and incarnation ~= '1' and known[7] == '0' and known[11] == known[4]
flags = (known[1] and '0' or '1') .. (((known[1] and not same) or unanswered) and '1' or '0') .. adopted
redis.call('HSET', KEYS[1], 'registration', plan.id .. ' ' .. flags)
return answer(flags)
