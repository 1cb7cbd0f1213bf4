-- Stores a note, provided that it is chained to the newest one.
-- KEYS: run, notes. ARGV: hash of the note before it (empty: none), its own, note, states of the run's incidents, most
-- notes of a run.
-- Returns {'ok', id}, {'not_found'}, {'full'}, or {'head'} when another note was stored meanwhile: chain to that one. Asked
-- again since the reply was lost, it finds its own note.
local stored = redis.call('HMGET', KEYS[1], 'name', 'notes_head')
if not stored[1] then
  return {'not_found'}
end
if (stored[2] or '') ~= ARGV[1] then
  for _, found in ipairs(redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 16)) do
    if string.find(found[2][2], '"hash":"' .. ARGV[2] .. '"', 1, true) then
      return {'ok', found[1]}
    end
  end
  return {'head'}
end
if redis.call('XLEN', KEYS[2]) >= tonumber(ARGV[5]) then
  return {'full'}
end
redis.call('HSET', KEYS[1], 'notes_head', ARGV[2], 'incidents', ARGV[4])
return {'ok', redis.call('XADD', KEYS[2], '*', 'note', ARGV[3])}
