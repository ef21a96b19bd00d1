"""Every operation of the job store, as steps: the one place for keys, codec and scripts.

Keys, after the prefix::

    jobs                    zset of all ids, score 0 (in order of id)
    status:<status>         zset of ids, score 0
    queue                   zset of queued ids, score = queue_score
    job:<id>                hash: json, version, fence, status, token, idempotency (its key, where it has one)
    starts:<id>             set of ids of jobs that start from its weights; deleted ones leave it
    deleted                 set of ids of deleted jobs whose files may still be there
    events:<id>             stream: type, at, data
    freeze:<id>             JSON
    decisions:<id>          list of JSON; seq = position, from 1
    decisions:<id>:steps    zset of seq by step
    decisions:<id>:gone     set of superseded seqs
    tallies                 hash: name -> total
    commands:<id>           list of JSON; seq = position, from 1
    commands:<id>:settled   hash: seq -> outcome as JSON, seq:at -> time
    commands:<id>:key:<key> hash: body, seq; 24 h
    idempotency:<key>       hash: body, job; 24 h
    workers, worker:<id>    set of ids; JSON with a TTL
    lock:<name>             holder, with a TTL
"""

from __future__ import annotations

import json
import random
import secrets
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from workers import _lua, _redis_removal
from workers._redis import MAX_BLOCK_MS, Batch, Call, Eval, Op, Pause, Script
from workers._redis_values import event_args, millis, read_events, stored_record, tally_args, unix_time
from workers.jobs import tally
from workers.jobs.codec import (
    decision_step,
    dumps,
    outcome_event,
    parse_event_id,
    read_records,
    read_workers,
    write_new_record,
    write_record,
)
from workers.jobs.errors import (
    IdempotencyConflict,
    IllegalTransition,
    JobNotFound,
    StaleFence,
    StoreUnavailable,
    no_start,
)
from workers.jobs.memory import IDEMPOTENCY_SECONDS, MAX_EVENTS, matches
from workers.jobs.ports import Decide
from workers.jobs.record import (
    LEASED,
    Command,
    CommandAction,
    Event,
    JobRecord,
    WorkerInfo,
    next_priority_score,
    of_queue_score,
    queue_score,
)

CHUNK = 128
MAX_CONFLICTS = 100


class Ops:
    """Operations on the keys under one prefix."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix

    def key(self, *parts: str) -> str:
        return self.prefix + ":".join(parts)

    def now(self) -> Op[float]:
        return unix_time((yield Call(("TIME",))))

    def ping(self) -> Op[None]:
        yield Call(("PING",))

    # --- records

    def create(self, record: JobRecord, idempotency: tuple[str, str] | None) -> Op[tuple[JobRecord, bool]]:
        new = record.model_copy(update={"version": 1})
        name, body = idempotency or ("", "")
        data = {"status": record.status, "attempt": record.attempt}
        created = Event(type="job.created", at=record.created_at, data=data)
        start = record.spec.model.init_from or ""
        keys = (*self._index_keys(new, "none"), self.key("jobs"), self.key("idempotency", name))
        keys += (self.key("job", start), self.key("starts", start))
        fields = self._fields(new, write_new_record(new))
        args = (new.id, body, *fields, int(IDEMPOTENCY_SECONDS), start, *event_args((created,)))
        reply = yield Eval(_lua.CREATE, keys, args)
        match reply:
            case ["ok"]:
                return new, True
            case ["replay", job_id]:
                return (yield from self.get(job_id)), False
            case ["mismatch"]:
                raise IdempotencyConflict(name)
            case ["no start"]:
                raise no_start(start)
            case _:
                raise ValueError(f"job {record.id} exists already")

    def created_with(self, idempotency: tuple[str, str]) -> Op[JobRecord | None]:
        name, body = idempotency
        earlier, job_id = yield Call(("HMGET", self.key("idempotency", name), "body", "job"))
        if earlier is None:
            return None
        if earlier != body:
            raise IdempotencyConflict(name)
        return (yield from self.get(job_id))

    def _index_keys(self, record: JobRecord, old_status: str) -> tuple[str, ...]:
        return (
            self.key("job", record.id),
            self.key("queue"),
            self.key("status", old_status),
            self.key("status", record.status),
            self.key("events", record.id),
        )

    def _fields(self, record: JobRecord, text: str) -> tuple[Any, ...]:
        """New version, token, json, fence, status, score, bound of the event stream: as the scripts expect them."""
        token, score = secrets.token_hex(8), repr(queue_score(record))
        return record.version, token, text, record.fence, record.status, score, MAX_EVENTS

    def get(self, job_id: str) -> Op[JobRecord]:
        text = yield Call(("HGET", self.key("job", job_id), "json"))
        return stored_record(job_id, text)

    def _many(self, ids: Collection[str]) -> Op[Sequence[JobRecord]]:
        """Records of the ids that exist and can be read, in their order."""
        if not ids:
            return []
        texts = yield Batch(tuple(Call(("HGET", self.key("job", job_id), "json")) for job_id in ids))
        return read_records((job_id, text) for job_id, text in zip(ids, texts, strict=True) if text is not None)

    def page(
        self,
        limit: int,
        after: str | None,
        newest_first: bool,
        status: Collection[str],
        name: str | None,
        metadata: dict[str, str] | None,
    ) -> Op[tuple[Sequence[JobRecord], bool]]:
        indexes = [self.key("status", s) for s in sorted(set(status))] if status else [self.key("jobs")]
        command, end = ("ZREVRANGEBYLEX", "-") if newest_first else ("ZRANGEBYLEX", "+")
        start = ("+" if newest_first else "-") if after is None else f"({after}"
        found: list[JobRecord] = []
        while True:
            replies = yield Batch(tuple(Call((command, key, start, end, "LIMIT", 0, CHUNK)) for key in indexes))
            ids = sorted({job_id for reply in replies for job_id in reply}, reverse=newest_first)[:CHUNK]
            records = yield from self._many(ids)
            found += [r for r in records if matches(r, status=status, name=name, metadata=metadata)]
            if len(found) > limit or len(ids) < CHUNK:
                return found[:limit], len(found) > limit
            start = f"({ids[-1]}"

    def update(self, job_id: str, decide: Decide) -> Op[JobRecord]:
        key = self.key("job", job_id)
        for conflict in range(MAX_CONFLICTS):
            text, time = yield Batch((Call(("HGET", key, "json")), Call(("TIME",))))
            record = stored_record(job_id, text)
            change = decide(record, unix_time(time))
            if change is None:
                return record
            new = change.record.model_copy(update={"version": record.version + 1})
            added = tally_args(tally.of_change(record, new))
            fields = self._fields(new, write_record(new))
            args = (job_id, record.version, *fields, len(added), *added, *event_args(change.events))
            keys = (*self._index_keys(new, record.status), self.key("tallies"))
            reply = yield Eval(_lua.COMMIT, keys, args)
            if reply[0] == "ok":
                return new
            yield Pause(random.uniform(0.0, min(0.05, 0.001 * 2 ** min(conflict, 6))))
        raise StoreUnavailable(f"job {job_id} is written by too many at once; nothing was changed, try again")

    def delete(self, job_id: str, statuses: Sequence[str]) -> Op[None]:
        return _redis_removal.delete(self.key, job_id, statuses)

    def deleted(self) -> Op[Sequence[str]]:
        return _redis_removal.deleted(self.key)

    def files_removed(self, job_id: str) -> Op[None]:
        return _redis_removal.files_removed(self.key, job_id)

    def queued(self, limit: int, after: JobRecord | None) -> Op[Sequence[JobRecord]]:
        key, start = self.key("queue"), 0
        if after is not None:
            before = Call(("ZCOUNT", key, "-inf", f"({queue_score(after)!r}"))
            rank, ahead = yield Batch((Call(("ZRANK", key, after.id)), before))
            start = ahead if rank is None else rank + 1
        found: list[JobRecord] = []
        while len(found) < limit:
            ids = yield Call(("ZRANGE", key, start, start + limit - 1))
            records = yield from self._many(ids)
            found += [record for record in records if record.status == "queued"]
            if len(ids) < limit:
                break
            start += limit
        return found[:limit]

    def places(self, job_ids: Collection[str]) -> Op[dict[str, int]]:
        if not job_ids:
            return {}
        ranks = yield Batch(tuple(Call(("ZRANK", self.key("queue"), job_id)) for job_id in job_ids))
        return {job_id: rank + 1 for job_id, rank in zip(job_ids, ranks, strict=True) if rank is not None}

    def oldest_queued(self) -> Op[float | None]:
        """Each priority in use is looked at once: within one, the first was queued first."""
        key, start = self.key("queue"), float("-inf")
        oldest: float | None = None
        while ids := (yield Call(("ZRANGEBYSCORE", key, repr(start), "+inf", "LIMIT", 0, 1))):
            score = yield Call(("ZSCORE", key, ids[0]))
            if score is None:  # it left meanwhile
                continue
            priority, queued_at = of_queue_score(float(score))
            oldest = queued_at if oldest is None else min(oldest, queued_at)
            start = next_priority_score(priority)
        return oldest

    def active(self) -> Op[Sequence[JobRecord]]:
        calls = (Call(("ZRANGE", self.key("status", status), 0, -1)) for status in sorted(LEASED))
        replies = yield Batch(tuple(calls))
        records = yield from self._many(sorted({job_id for reply in replies for job_id in reply}))
        return [record for record in records if record.status in LEASED]

    def counts(self, statuses: Sequence[str]) -> Op[dict[str, int]]:
        replies = yield Batch(tuple(Call(("ZCARD", self.key("status", status))) for status in statuses))
        return {status: count for status, count in zip(statuses, replies, strict=True) if count}

    # --- written by the attempt that holds the lease

    def _guarded(self, job_id: str, fence: int | None, script: Script, keys: tuple[str, ...], *args: Any) -> Op[Any]:
        guard = "" if fence is None else fence
        reply = yield Eval(script, (self.key("job", job_id), *keys), (guard, *args))
        match reply:
            case ["missing"]:
                raise JobNotFound(job_id)
            case ["stale", current]:
                raise StaleFence(job_id, fence or 0, int(current))
        return reply[1] if len(reply) > 1 else None

    def append_event(self, job_id: str, event: Event, fence: int | None) -> Op[str]:
        keys, args = (self.key("events", job_id),), (secrets.token_hex(8), MAX_EVENTS, *event_args((event,)))
        return str((yield from self._guarded(job_id, fence, _lua.APPEND_EVENT, keys, *args)))

    def put_freeze(self, job_id: str, fence: int, status: dict[str, Any]) -> Op[None]:
        yield from self._guarded(job_id, fence, _lua.PUT_FREEZE, (self.key("freeze", job_id),), dumps(status))

    def append_decision(self, job_id: str, fence: int, decision: dict[str, Any]) -> Op[int]:
        keys = (self.key("decisions", job_id), self.key("decisions", job_id, "steps"), self.key("tallies"))
        added = tally_args(tally.of_decision(decision))
        args = (secrets.token_hex(8), decision_step(decision), dumps({**decision, "fence": fence}), *added)
        return int((yield from self._guarded(job_id, fence, _lua.APPEND_DECISION, keys, *args)))

    def supersede_decisions(self, job_id: str, fence: int, after_step: int) -> Op[int]:
        keys = (self.key("decisions", job_id, "steps"), self.key("decisions", job_id, "gone"))
        return int((yield from self._guarded(job_id, fence, _lua.SUPERSEDE, keys, after_step)))

    # --- read by everybody

    def events(self, job_id: str, after: str, limit: int) -> Op[Sequence[Event]]:
        millis, number = parse_event_id(after)
        start = f"({millis}-{number}"
        return read_events((yield Call(("XRANGE", self.key("events", job_id), start, "+", "COUNT", limit))))

    def wait_events(
        self, cursors: Mapping[str, str], block_ms: int, limit: int = 100
    ) -> Op[dict[str, Sequence[Event]]]:
        if not cursors:
            yield Pause(max(0, block_ms) / 1000)
            return {}
        jobs = {self.key("events", job_id): job_id for job_id in cursors}
        ids = ["-".join(map(str, parse_event_id(after))) for after in cursors.values()]
        block = ("BLOCK", min(block_ms, MAX_BLOCK_MS)) if block_ms > 0 else ()  # BLOCK 0 would wait for ever
        reply = yield Call(("XREAD", "COUNT", limit, *block, "STREAMS", *jobs, *ids))
        return {jobs[key]: read_events(entries) for key, entries in reply or ()}

    def get_freeze(self, job_id: str) -> Op[dict[str, Any] | None]:
        text = yield Call(("GET", self.key("freeze", job_id)))
        return None if text is None else dict(json.loads(text))

    def decisions(self, job_id: str, after: int, limit: int) -> Op[Sequence[dict[str, Any]]]:
        key = self.key("decisions", job_id)
        listed, members = Call(("LRANGE", key, after, after + limit - 1)), Call(("SMEMBERS", f"{key}:gone"))
        texts, superseded = yield Batch((listed, members))
        gone = {int(seq) for seq in superseded}
        return [{**json.loads(t), "seq": s, "superseded": s in gone} for s, t in enumerate(texts, after + 1)]

    def tallies(self) -> Op[dict[str, float]]:
        # not HGETALL: a generic command's reply is a plain list, whatever the client makes of that one
        key = self.key("tallies")
        names = sorted((yield Call(("HKEYS", key))))
        if not names:
            return {}
        return dict(zip(names, map(float, (yield Call(("HMGET", key, *names)))), strict=True))

    # --- commands

    def add_command(
        self,
        job_id: str,
        action: CommandAction,
        units: Sequence[str] | None,
        idempotency: tuple[str, str] | None,
    ) -> Op[tuple[Command, bool]]:
        name, body = idempotency or ("", "")
        at = yield from self.now()
        text = dumps({"action": action, "units": None if units is None else list(units), "at": at})
        keys = (self.key("job", job_id), self.key("commands", job_id), self.key("commands", job_id, "key", name))
        reply = yield Eval(_lua.ADD_COMMAND, keys, (secrets.token_hex(8), body, int(IDEMPOTENCY_SECONDS), text))
        match reply:
            case ["missing"]:
                raise JobNotFound(job_id)
            case ["ended", status]:
                raise IllegalTransition(job_id, status, action)
            case ["mismatch"]:
                raise IdempotencyConflict(name)
        (command,) = yield from self.commands(job_id, int(reply[1]) - 1, 1)
        return command, reply[0] == "ok"

    def commands(self, job_id: str, after: int, limit: int) -> Op[Sequence[Command]]:
        key = self.key("commands", job_id)
        texts = yield Call(("LRANGE", key, after, after + limit - 1))
        if not texts:
            return []
        fields = [field for seq in range(after + 1, after + len(texts) + 1) for field in (seq, f"{seq}:at")]
        settled = yield Call(("HMGET", f"{key}:settled", *fields))
        found = []
        for seq, (text, outcome, at) in enumerate(zip(texts, settled[::2], settled[1::2], strict=True), after + 1):
            more = {} if outcome is None else {**json.loads(outcome), "settled_at": float(at)}
            found.append(Command.model_validate({**json.loads(text), "seq": seq, **more}))
        return found

    def settle_command(self, job_id: str, fence: int, seq: int, step: int, error: str | None) -> Op[bool]:
        at = yield from self.now()
        known = (yield from self.commands(job_id, seq - 1, 1)) if seq >= 1 else []
        outcome = {"state": "refused" if error else "applied", "applied_at_step": step, "error": error}
        if not known:
            raise ValueError(f"job {job_id} has no command {seq}")
        told = outcome_event(known[0].model_copy(update=outcome | {"settled_at": at}))
        keys = (self.key("commands", job_id, "settled"), self.key("events", job_id))
        args = (seq, dumps(outcome), repr(at), MAX_EVENTS, *event_args((told,)))
        return bool((yield from self._guarded(job_id, fence, _lua.SETTLE_COMMAND, keys, *args)))

    # --- workers and locks

    def put_worker(self, worker: WorkerInfo, ttl_seconds: float) -> Op[None]:
        put = Call(("SET", self.key("worker", worker.id), worker.model_dump_json(), "PX", millis(ttl_seconds)))
        yield Batch((put, Call(("SADD", self.key("workers"), worker.id))), atomic=True)

    def remove_worker(self, worker_id: str) -> Op[None]:
        yield Batch((Call(("DEL", self.key("worker", worker_id))), Call(("SREM", self.key("workers"), worker_id))))

    def workers(self) -> Op[Sequence[WorkerInfo]]:
        ids = sorted((yield Call(("SMEMBERS", self.key("workers")))))
        if not ids:
            return []
        texts = yield Call(("MGET", *(self.key("worker", worker_id) for worker_id in ids)))
        gone = [worker_id for worker_id, text in zip(ids, texts, strict=True) if text is None]
        if gone:  # one that comes back enters itself again with its next heartbeat
            yield Call(("SREM", self.key("workers"), *gone))
        return read_workers(text for text in texts if text is not None)

    def try_lock(self, name: str, holder: str, ttl_seconds: float) -> Op[bool]:
        return bool((yield Eval(_lua.TRY_LOCK, (self.key("lock", name),), (holder, millis(ttl_seconds)))))
