-- Removes a run with all its data, provided that it is as silent as it was judged to be.
-- KEYS: run, then all others of the run. ARGV: the last_seen that was judged. Answers whether it was removed.
if redis.call('HGET', KEYS[1], 'last_seen') ~= ARGV[1] then
  return 0
end
redis.call('UNLINK', unpack(KEYS))
return 1
