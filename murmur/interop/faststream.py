"""In a FastStream app: workers and publishers that live with it, and tasks published from its handlers.

    runtime = AgentRuntime(broker=url)
    app = FastStream(broker, lifespan=lifespan(runtime, Worker(broker=url, agents=[Researcher])))

What FastStream publishes by itself is no task (its Redis streams hold frames of its own). A handler publishes through
`runtime.submit` or `runtime.run`; or, where it does not wait for the result, with `publish_task` over its own broker.
FastStream is not imported here: the app has it.
"""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
from attrs import frozen
from msgspec import Raw

from murmur.codec import Misfit
from murmur.envelope import VERSION, TaskMessage, encode
from murmur.errors import InputError, PayloadTooLarge, WrongForm
from murmur.limits import MAX_ENVELOPE
from murmur.names import Topics
from murmur.registry import AgentRef, Registry
from murmur.signing import HEADER, TASK, read_keys
from murmur.task import TaskSpec


def lifespan(*parts: AbstractAsyncContextManager[Any]) -> Callable[[], AbstractAsyncContextManager[None]]:
    """Return a lifespan for a FastStream app: workers and runtimes start in order before its handlers, and end after
    them in reverse."""

    @asynccontextmanager
    async def live() -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            for part in parts:
                await stack.enter_async_context(part)
            yield

    return live


@frozen
class TaskPost:
    """A task as it goes to a broker: publish `body` with `headers` to `topic`."""

    task_id: str
    topic: str
    body: bytes
    headers: Mapping[str, str]

    @property
    def redis_fields(self) -> dict[str, bytes | str]:
        """The fields of its entry in the Redis stream `topic`; see docs/wire.md."""
        fields: dict[str, bytes | str] = {"d": self.body, "i": self.task_id}
        return {**fields, "h": msgspec.json.encode(self.headers)} if self.headers else fields


def task_post(
    agent: AgentRef,
    task: Any,
    *,
    namespace: str = "",
    reply_to: str | None = None,
    signing_keys: str | Path | None = None,
) -> TaskPost:
    """Return a task for an agent, to be published by hand.

    Args:
        agent: an actor class, or `Remote(name)` for one whose class is not here.
        task: an input, or a `TaskSpec`.
        namespace: of the workers.
        reply_to: an inbox of your own, whose name begins as docs/wire.md says; None: nobody is told the result.
        signing_keys: a key file, where the workers have one.
    Raises: InputError, PayloadTooLarge, TypeError.
    """
    entry = Registry().resolve(agent)
    spec: TaskSpec[Any] = task if isinstance(task, TaskSpec) else TaskSpec(task)
    try:
        body = entry.input.encode_checked(spec.input)
    except Misfit as misfit:
        raise InputError(agent=entry.name, expected=entry.input.type_name, problems=misfit.problems) from misfit
    envelope = encode(
        TaskMessage(
            v=VERSION,
            task_id=spec.id,
            agent=entry.name,
            input=Raw(body),
            reply_to=reply_to,
            idempotency_key=spec.idempotency_key,
            timeout=spec.timeout,
            headers=spec.headers,
            priority=spec.priority,
        )
    )
    if len(envelope) > MAX_ENVELOPE:
        raise PayloadTooLarge(f"the envelope of a task for {entry.name}", len(envelope), MAX_ENVELOPE)
    topic = Topics(namespace).tasks(entry.name)
    headers = {} if signing_keys is None else {HEADER: read_keys(signing_keys).signature(TASK, topic, envelope)}
    return TaskPost(spec.id, topic, envelope, headers)


async def publish_task(broker: Any, agent: AgentRef, task: Any, **how: Any) -> str:
    """Publish a task over a FastStream RedisBroker; return its id. `how`: the keywords of `task_post`.

    Raises: WrongForm, for a broker of another kind; what the Redis client raises: the task may or may not be there,
    and publishing it again under the same id is safe.
    """
    post = task_post(agent, task, **how)
    client = await broker.connect()
    if not hasattr(client, "xadd"):
        raise WrongForm(used=f"publish_task over {type(broker).__name__}", instead="AgentRuntime.submit")
    await client.xadd(post.topic, post.redis_fields)
    return post.task_id
