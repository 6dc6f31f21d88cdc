"""Supervised actors for fleets of LLM agents, on the broker you already run.

Names are imported when first used: `import murmur` loads no broker client and no model SDK.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from murmur.actor import Actor as Actor
    from murmur.actor import Remote as Remote
    from murmur.context import Context as Context
    from murmur.errors import MurmurError as MurmurError
    from murmur.errors import Reject as Reject
    from murmur.named import Named as Named
    from murmur.policy import Backoff as Backoff
    from murmur.policy import Directive as Directive
    from murmur.policy import Intensity as Intensity
    from murmur.policy import Redelivery as Redelivery
    from murmur.runtime.handle import Handle as Handle
    from murmur.runtime.runtime import AgentRuntime as AgentRuntime
    from murmur.stores.redis_idempotency import RedisIdempotency as RedisIdempotency
    from murmur.stores.sqlite_idempotency import SqliteIdempotency as SqliteIdempotency
    from murmur.task import AgentResult as AgentResult
    from murmur.task import TaskSpec as TaskSpec
    from murmur.worker import SupervisorNode as SupervisorNode
    from murmur.worker import Worker as Worker

_WHERE = {
    "Actor": "murmur.actor",
    "AgentResult": "murmur.task",
    "AgentRuntime": "murmur.runtime.runtime",
    "Backoff": "murmur.policy",
    "Context": "murmur.context",
    "Directive": "murmur.policy",
    "Handle": "murmur.runtime.handle",
    "Intensity": "murmur.policy",
    "MurmurError": "murmur.errors",
    "Named": "murmur.named",
    "Redelivery": "murmur.policy",
    "RedisIdempotency": "murmur.stores.redis_idempotency",
    "Reject": "murmur.errors",
    "Remote": "murmur.actor",
    "SqliteIdempotency": "murmur.stores.sqlite_idempotency",
    "SupervisorNode": "murmur.worker",
    "TaskSpec": "murmur.task",
    "Worker": "murmur.worker",
}

__all__ = sorted(_WHERE)  # noqa: PLE0605  a list of the names above


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_WHERE[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
