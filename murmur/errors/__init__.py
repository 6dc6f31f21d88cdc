"""Every error murmur raises or answers with, each with a stable code and what to do about it.

Errors are plain data, so they survive a process boundary, and sentences: what happened,
with which values, what to do. Codes: E1xx set-up and connections, E2xx publishing,
E3xx how a task ended, E4xx delivery, E5xx workers.
"""

from murmur.errors.base import (
    MurmurError,
)
from murmur.errors.delivery import (
    BadEnvelope,
    BadSignature,
    LeaseLost,
    OutcomeUnknown,
    PayloadLost,
    UnsupportedVersion,
)
from murmur.errors.publishing import (
    BadActorKey,
    BadAgentName,
    BadTaskId,
    BatchConflict,
    BatchExpired,
    DuplicateTaskId,
    GaveUp,
    IdempotencyConflict,
    InputError,
    NotNamed,
    NoWorkers,
    PayloadTooLarge,
    SpawnError,
    SpawnLimit,
    UnknownAgent,
    WrongForm,
)
from murmur.errors.results import (
    OutputError,
    Reject,
    TaskCancelled,
    TaskExpired,
    TaskFailed,
    TaskLost,
    TaskTimeout,
)
from murmur.errors.setup import (
    BadSetting,
    BadURL,
    BrokerRefused,
    BrokerUnreachable,
    MissingExtra,
    NeedsStore,
    Unsafe,
)
from murmur.errors.workers import (
    ActorBroken,
    StateError,
    WorkerGaveUp,
    WorkerNotStarted,
)

__all__ = [
    "ActorBroken",
    "BadActorKey",
    "BadAgentName",
    "BadEnvelope",
    "BadSetting",
    "BadSignature",
    "BadTaskId",
    "BadURL",
    "BatchConflict",
    "BatchExpired",
    "BrokerRefused",
    "BrokerUnreachable",
    "DuplicateTaskId",
    "GaveUp",
    "IdempotencyConflict",
    "InputError",
    "LeaseLost",
    "MissingExtra",
    "MurmurError",
    "NeedsStore",
    "NoWorkers",
    "NotNamed",
    "OutcomeUnknown",
    "OutputError",
    "PayloadLost",
    "PayloadTooLarge",
    "Reject",
    "SpawnError",
    "SpawnLimit",
    "StateError",
    "TaskCancelled",
    "TaskExpired",
    "TaskFailed",
    "TaskLost",
    "TaskTimeout",
    "UnknownAgent",
    "Unsafe",
    "UnsupportedVersion",
    "WorkerGaveUp",
    "WorkerNotStarted",
    "WrongForm",
]
