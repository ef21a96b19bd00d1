"""How a job leaves the Redis store, as steps; the keys are those of ``_redis_ops``."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from workers import _lua
from workers._redis import Call, Eval, Op
from workers.jobs.codec import record_or_none
from workers.jobs.errors import JobNotFound
from workers.jobs.state import may_delete, still_needed

Key = Callable[..., str]


def delete(key: Key, job_id: str, statuses: Sequence[str]) -> Op[None]:
    record = key("job", job_id)
    status, idempotency, text = yield Call(("HMGET", record, "status", "idempotency", "json"))
    if status is None and text is None:
        raise JobNotFound(job_id)
    found = record_or_none(job_id, text)
    readable, start = found is not None, (found.spec.model.init_from if found else None) or ""
    may_delete(job_id, status, readable=readable)  # a terminal status never changes, an unreadable record stays one
    # All indexes: the status of a damaged record may be wrong.
    indexes = (key("jobs"), key("queue"), *(key("status", one) for one in statuses))
    own = [key(kind, job_id) for kind in ("events", "freeze", "decisions", "commands", "starts")]
    own += [f"{own[2]}:steps", f"{own[2]}:gone", f"{own[3]}:settled"]
    users, siblings = key("starts", job_id), key("starts", start)
    keys = (record, key("deleted"), users, idempotency or key("idempotency", ""), siblings, *own, *indexes)
    reply = yield Eval(_lua.DELETE, keys, (job_id, len(own), key("job", ""), int(readable)))
    match reply:
        case ["missing"]:
            raise JobNotFound(job_id)
        case ["needed", other, its_status]:
            raise still_needed(job_id, status, other, its_status)


def deleted(key: Key) -> Op[Sequence[str]]:
    return sorted((yield Call(("SMEMBERS", key("deleted")))))


def files_removed(key: Key, job_id: str) -> Op[None]:
    yield Call(("SREM", key("deleted"), job_id))
