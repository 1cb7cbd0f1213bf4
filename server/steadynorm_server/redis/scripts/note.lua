-- Stores a note, provided that it is chained to the newest one.
-- KEYS: run, notes. ARGV: hash of the note before it (empty: none), its own, note, states of the run's incidents, most
-- notes of a run, id of this call: the last eight are kept with those of their notes, so that one which is asked for
-- again, since its reply was lost, is stored once.
-- Returns {'ok', id}, {'not_found'}, {'full'}, or {'head'} when another note was stored meanwhile: chain to that one.
local stored = redis.call('HMGET', KEYS[1], 'name', 'notes_head', 'notes_made')
if not stored[1] then
  return {'not_found'}
end
local made = stored[3] or ''
local at = string.match(made, ARGV[6] .. '=([^ ]+) ')
if at then
  return {'ok', at}
end
if (stored[2] or '') ~= ARGV[1] then
  return {'head'}
end
if redis.call('XLEN', KEYS[2]) >= tonumber(ARGV[5]) then
  return {'full'}
end
at = redis.call('XADD', KEYS[2], '*', 'note', ARGV[3])
made = ARGV[6] .. '=' .. at .. ' ' .. (string.match(made, '^' .. string.rep('[^ ]+ ', 7)) or made)
redis.call('HSET', KEYS[1], 'notes_head', ARGV[2], 'incidents', ARGV[4], 'notes_made', made)
return {'ok', at}
