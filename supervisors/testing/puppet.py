"""Children for tests: they start as planned, end when told, and stop as they are made to."""

from collections.abc import Callable, Iterable
from typing import Final

import anyio
from anyio import Event

from supervisors.child import ChildContext, Exit
from supervisors.clock import Clock, sleep
from supervisors.reasons import Crashed, ExitReason, Stopped
from supervisors.spec import ChildSpec

SLOW: Final = 0.03  # seconds a slow puppet takes to stop


class Boom(Exception):
    """What a puppet crashes with."""


class StartRefused(Exception):
    """What a puppet's start fails with."""


class Puppet:
    """A child on strings. `plan`: outcomes of its starts, then always "ok": ok, ok_info, ignore, error, raise.

    `on_stop`: what it does when asked to stop: stop, slow (30 ms, then stops), crash, normal, ignore (never).
    """

    def __init__(self, label: str, *, plan: Iterable[str] = (), on_stop: str = "stop") -> None:
        self.label = label
        self.on_stop = on_stop
        self.starts = 0
        self._plan = list(plan)
        self.ended: ExitReason | None = None  # how it was made to end by itself, if it was
        self._string: Callable[[ExitReason], None] | None = None

    def spec(self, clock: Clock, **options: object) -> ChildSpec:
        """The spec of this puppet as a child; `options` as for ChildSpec."""
        return ChildSpec(id=self.label, start=self.run, args=(clock,), **options)  # type: ignore[arg-type]

    def next_outcome(self) -> str:
        """What the plan has for the start that begins now."""
        self.starts += 1
        return self._plan.pop(0) if self._plan else "ok"

    @property
    def is_up(self) -> bool:
        """Whether it runs, and can be made to end."""
        return self._string is not None

    def tie(self, string: Callable[[ExitReason], None] | None) -> None:
        """Say what makes the running child end; None: it does not run any more."""
        self._string = string
        if string is not None:
            self.ended = None

    def end(self, reason: ExitReason | None = None) -> None:
        """End the running child by itself, with this reason; without one it crashes."""
        if self._string is None:
            raise RuntimeError(f"puppet {self.label!r} is not running")
        string, self._string = self._string, None
        self.ended = reason or Crashed(Boom(self.label))
        string(self.ended)

    async def run(self, ctx: ChildContext, clock: Clock, outcome: str | None = None) -> None:
        """The child itself. `outcome`: of this start, if whoever starts it asked the plan already."""
        await self._begin(ctx, outcome or self.next_outcome())
        await self._live(ctx, clock)

    async def _begin(self, ctx: ChildContext, outcome: str) -> None:
        match outcome:
            case "ignore":
                ctx.ignore()
            case "error":
                raise Exit(Crashed(StartRefused(self.label)))
            case "raise":
                raise StartRefused(self.label)
        ctx.ready("info" if outcome == "ok_info" else None)

    async def _live(self, ctx: ChildContext, clock: Clock) -> None:
        pulled = Event()
        self.tie(lambda _reason: pulled.set())
        try:
            if self.on_stop == "stop":
                await pulled.wait()
            else:
                await _first(pulled, ctx.stopping)
        finally:
            self.tie(None)
        if self.ended is not None:
            raise Exit(self.ended)
        await self._stop(clock)

    async def _stop(self, clock: Clock) -> None:
        match self.on_stop:
            case "slow":
                await sleep(clock, SLOW)
                raise Exit(Stopped())
            case "crash":
                raise Boom(self.label)
            case "ignore":
                await anyio.sleep_forever()


async def _first(*events: Event) -> None:
    """Wait for any of these."""
    async with anyio.create_task_group() as group:

        async def wait(event: Event) -> None:
            await event.wait()
            group.cancel_scope.cancel()

        for event in events:
            group.start_soon(wait, event)
