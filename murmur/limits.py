"""Every size and count that murmur enforces, in one place.

A limit protects the next task from this one: an envelope too large, too deep or too
numerous is refused by name at the sender, and again by the worker, which trusts nobody.
"""

from typing import Final

MAX_ENVELOPE: Final = 1024 * 1024  # bytes of one encoded TaskMessage or ResultMessage
MAX_INLINE: Final = 256 * 1024  # bytes of an envelope beyond which its payload is stowed, where there is a store
MAX_PAYLOAD: Final = 10 * 1024 * 1024  # bytes of a stowed payload
STOWED_PART: Final = 512 * 1024  # bytes of a stowed payload under one key
ENVELOPE_ROOM: Final = 16 * 1024  # bytes that an envelope takes beside its payload, signature and headers included
MAX_JSON_DEPTH: Final = 64  # arrays and objects inside one another
MAX_TASK_ID: Final = 200  # characters
MAX_NAME: Final = 1_000  # characters of a batch id, reply address, idempotency key or other name in an envelope
MAX_HEADERS: Final = 16_384  # characters of all headers of a task
MAX_SECONDS: Final = 10**11  # of any time or duration in an envelope: the year 5138
MAX_AGENT_NAME: Final = 63  # characters
MAX_ACTOR_KEY: Final = 200  # characters of the name of a named actor
MAX_STATE: Final = 1024 * 1024  # bytes of a named actor's encoded state
SHARDS: Final = 16  # of a named agent; every worker and publisher of a fleet must have the same
MAX_ERROR_TEXT: Final = 4_000  # characters of an error that travels in a result or a dead letter
MAX_ERROR_IN_HEADER: Final = 300  # characters of an error that travels in a broker's header
MAX_ERRORS_KEPT: Final = 3  # last errors that a row and a dead letter remember
MAX_DEPTH: Final = 16  # tasks that spawned one another, from the root down
MAX_CHILDREN: Final = 10_000  # tasks that one gather inside an actor may spawn
LAPSES_BEYOND_DELIVERIES: Final = 3  # leases in a row that may lapse beyond `max_deliveries` before a task is buried
MEMORY_ROWS_KEPT: Final = 10_000  # finished rows a memory store remembers; named batches are kept beside them
MEMORY_INBOXES_KEPT: Final = 16  # inboxes without a reader that a memory broker keeps
MEMORY_BELLS_KEPT: Final = 1_000  # results that wait in each of them
MEMORY_LETTERS_KEPT: Final = 1_000  # dead letters a memory store remembers of each agent
MEMORY_STOWED_KEPT: Final = 512 * 1024 * 1024  # bytes of stowed payloads that a memory store remembers
MEMORY_BYTES_KEPT: Final = 256 * 1024 * 1024  # of results in the finished rows that a memory store remembers
CANCELS_KEPT: Final = 20_000  # cancelled tasks that a worker without a coordination store remembers
LETTERS_READ: Final = 1_000  # dead letters that one look into a broker's dead-letter topic takes
