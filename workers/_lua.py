"""The scripts of the job store. Each is one atomic step, and changes nothing once it has answered anything but ``ok``.

A record is a hash: ``json`` (the whole record), and copies of ``version``, ``fence`` and ``status`` for the scripts, so
that they never parse JSON. ``token`` names the write that made this version: a write whose reply was lost is known
again when it is repeated.
"""

from __future__ import annotations

from workers._redis import Script
from workers.jobs.record import LEASED, TERMINAL

_APPLY = """
local function apply(record, queue, from, to, events, id, version, token, json, fence, status, score, maxlen, first)
  redis.call('HSET', record, 'json', json, 'version', version, 'token', token, 'fence', fence, 'status', status)
  if from ~= to then
    redis.call('ZREM', from, id)
    redis.call('ZADD', to, 0, id)
  end
  if status == 'queued' then redis.call('ZADD', queue, score, id) else redis.call('ZREM', queue, id) end
  for i = first, #ARGV, 3 do
    redis.call('XADD', events, 'MAXLEN', '~', maxlen, '*', 'type', ARGV[i], 'at', ARGV[i + 1], 'data', ARGV[i + 2])
  end
end
"""

COMMIT = Script(
    _APPLY
    + """
-- KEYS record, queue, index of old status, index of new status, events, tallies
-- ARGV id, expected version, new version, token, json, fence, status, score, maxlen,
--      how many arguments follow for tallies: name and amount of each; then type, at, data of each event
local version = redis.call('HGET', KEYS[1], 'version')
if version ~= ARGV[2] then
  if version and redis.call('HGET', KEYS[1], 'token') == ARGV[4] then return {'ok'} end
  return {'conflict'}
end
local last = 10 + tonumber(ARGV[10])
for i = 11, last, 2 do redis.call('HINCRBYFLOAT', KEYS[6], ARGV[i], ARGV[i + 1]) end
apply(KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5],
      ARGV[1], ARGV[3], ARGV[4], ARGV[5], ARGV[6], ARGV[7], ARGV[8], ARGV[9], last + 1)
return {'ok'}
"""
)

CREATE = Script(
    _APPLY
    + """
-- KEYS record, queue, none, index of status, events, ids, idempotency, record and users of the job it starts from
-- ARGV id, body hash ('' for no idempotency key), version, token, json, fence, status, score, maxlen, ttl,
--      whether it starts from another job ('' for no), events
if ARGV[2] ~= '' then
  local earlier = redis.call('HMGET', KEYS[7], 'body', 'job')
  if earlier[1] then
    if earlier[1] ~= ARGV[2] then return {'mismatch'} end
    if earlier[2] ~= ARGV[1] then return {'replay', earlier[2]} end
    return {'ok'}
  end
end
if redis.call('EXISTS', KEYS[1]) == 1 then
  if redis.call('HGET', KEYS[1], 'token') == ARGV[4] then return {'ok'} end
  return {'exists'}
end
if ARGV[11] ~= '' then
  if redis.call('EXISTS', KEYS[8]) == 0 then return {'no start'} end
  redis.call('SADD', KEYS[9], ARGV[1])
end
if ARGV[2] ~= '' then
  redis.call('HSET', KEYS[7], 'body', ARGV[2], 'job', ARGV[1])
  redis.call('EXPIRE', KEYS[7], ARGV[10])
  redis.call('HSET', KEYS[1], 'idempotency', KEYS[7])
end
redis.call('ZADD', KEYS[6], 0, ARGV[1])
apply(KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5],
      ARGV[1], ARGV[3], ARGV[4], ARGV[5], ARGV[6], ARGV[7], ARGV[8], ARGV[9], 12)
return {'ok'}
"""
)

_ENDED = "local ended = {" + ", ".join(f"['{status}'] = true" for status in sorted(TERMINAL)) + "}"

DELETE = Script(
    _ENDED
    + """
-- KEYS record, deleted, jobs that start from it, idempotency, jobs that start from what it starts from,
--      then what is the job's own, then the indexes
-- ARGV id, how many keys are its own, record of a job but for its id, whether those that start from it are asked
if redis.call('EXISTS', KEYS[1]) == 0 then
  return {redis.call('SISMEMBER', KEYS[2], ARGV[1]) == 1 and 'ok' or 'missing'}
end
if ARGV[4] == '1' then
  for _, other in ipairs(redis.call('SMEMBERS', KEYS[3])) do
    local status = redis.call('HGET', ARGV[3] .. other, 'status')
    if status and not ended[status] then return {'needed', other, status} end
  end
end
redis.call('SADD', KEYS[2], ARGV[1])
if redis.call('HGET', KEYS[4], 'job') == ARGV[1] then redis.call('DEL', KEYS[4]) end
redis.call('SREM', KEYS[5], ARGV[1])
local own = 5 + tonumber(ARGV[2])
for i = 6, own do redis.call('DEL', KEYS[i]) end
for i = own + 1, #KEYS do redis.call('ZREM', KEYS[i], ARGV[1]) end
redis.call('DEL', KEYS[1])
return {'ok'}
"""
)

_GUARD = """
-- KEYS[1] record; ARGV[1] fence ('' for none)
local leased = {%s}
local have = redis.call('HMGET', KEYS[1], 'fence', 'status')
if not have[1] then return {'missing'} end
if ARGV[1] ~= '' and (have[1] ~= ARGV[1] or not leased[have[2]]) then return {'stale', have[1]} end
""" % ", ".join(f"['{status}'] = true" for status in sorted(LEASED))  # noqa: UP031 braces of Lua

APPEND_EVENT = Script(
    _GUARD
    + """
-- KEYS events; ARGV token, maxlen, type, at, data
local done = redis.call('HMGET', KEYS[1], 'event_token', 'event_id')
if done[1] == ARGV[2] then return {'ok', done[2]} end
local id = redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[3], '*', 'type', ARGV[4], 'at', ARGV[5], 'data', ARGV[6])
redis.call('HSET', KEYS[1], 'event_token', ARGV[2], 'event_id', id)
return {'ok', id}
"""
)

PUT_FREEZE = Script(
    _GUARD
    + """
-- KEYS freeze; ARGV json
redis.call('SET', KEYS[2], ARGV[2])
return {'ok'}
"""
)

APPEND_DECISION = Script(
    _GUARD
    + """
-- KEYS decisions, steps, tallies; ARGV token, step, json, then name and amount of each
local done = redis.call('HMGET', KEYS[1], 'decision_token', 'decision_seq')
if done[1] == ARGV[2] then return {'ok', tonumber(done[2])} end
local seq = redis.call('RPUSH', KEYS[2], ARGV[4])
redis.call('ZADD', KEYS[3], ARGV[3], seq)
redis.call('HSET', KEYS[1], 'decision_token', ARGV[2], 'decision_seq', seq)
for i = 5, #ARGV, 2 do redis.call('HINCRBYFLOAT', KEYS[4], ARGV[i], ARGV[i + 1]) end
return {'ok', seq}
"""
)

SUPERSEDE = Script(
    _GUARD
    + """
-- KEYS steps, superseded; ARGV step of the checkpoint
local fresh = 0
for _, seq in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '(' .. ARGV[2], '+inf')) do
  fresh = fresh + redis.call('SADD', KEYS[3], seq)
end
return {'ok', fresh}
"""
)

ADD_COMMAND = Script(
    _ENDED
    + """
-- KEYS record, commands, idempotency; ARGV token, body hash ('' for no idempotency key), ttl, json
local have = redis.call('HMGET', KEYS[1], 'status', 'command_token', 'command_seq')
if not have[1] then return {'missing'} end
if have[2] == ARGV[1] then return {'ok', tonumber(have[3])} end
if ARGV[2] ~= '' then
  local earlier = redis.call('HMGET', KEYS[3], 'body', 'seq')
  if earlier[1] and earlier[1] ~= ARGV[2] then return {'mismatch'} end
  if earlier[1] then return {'replay', tonumber(earlier[2])} end
end
if ended[have[1]] then return {'ended', have[1]} end
local seq = redis.call('RPUSH', KEYS[2], ARGV[4])
redis.call('HSET', KEYS[1], 'command_token', ARGV[1], 'command_seq', seq)
if ARGV[2] ~= '' then
  redis.call('HSET', KEYS[3], 'body', ARGV[2], 'seq', seq)
  redis.call('EXPIRE', KEYS[3], ARGV[3])
end
return {'ok', seq}
"""
)

SETTLE_COMMAND = Script(
    _GUARD
    + """
-- KEYS settled, events; ARGV seq, outcome, time, maxlen, type, at, data
if redis.call('HGET', KEYS[2], ARGV[2]) == ARGV[3] then return {'ok', 0} end
redis.call('HSET', KEYS[2], ARGV[2], ARGV[3], ARGV[2] .. ':at', ARGV[4])
redis.call('XADD', KEYS[3], 'MAXLEN', '~', ARGV[5], '*', 'type', ARGV[6], 'at', ARGV[7], 'data', ARGV[8])
return {'ok', 1}
"""
)

TRY_LOCK = Script(
    """
-- KEYS lock; ARGV holder, ttl in ms
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
"""
)
