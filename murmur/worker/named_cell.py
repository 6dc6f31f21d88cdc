"""One name: its mail, its instance while it lives, and the loop that handles the one with the other.

An idle cell is a value, not a task. Mail is handled in order, one at a time, and what a few messages did is committed
together before anything is said of any of them: the state and the results that go with it are one value in the store.
An instance that failed, or was stopped in the middle, is dropped; its successor has the state from before.
"""

import asyncio
import random
import time
from collections import deque
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, Final

from attrs import define, field
from loguru import logger

from murmur.actor import Actor
from murmur.codec import Misfit, PayloadCodec, codec_for, returned_type
from murmur.errors import PayloadTooLarge, StateError
from murmur.limits import MAX_STATE
from murmur.outcome import Answer, after_failure
from murmur.policy import Directive
from murmur.worker.attempt import Output, Raised, Stop, Stopped, timed_out
from murmur.worker.crew import Crew, directive_of, log_failure
from murmur.worker.hooks import call
from murmur.worker.host import Host
from murmur.worker.named_letters import Letter, Run
from murmur.worker.named_record import Fenced, Kept, Unreadable

_MOST: Final = 256  # messages committed together
_TOGETHER: Final = 0.005  # seconds after the first until what was done is committed
_STOP_WITHIN: Final = 5.0  # seconds a `stopped` may take


@define(eq=False)
class Cell(Host):
    """One name of one agent in this process. To an attempt it is its agent's host, with one instance."""

    key: str
    crew: Crew
    owner: str  # who takes records over
    is_shared: bool  # others may own the name: what is not done here is given back to them
    share: AbstractAsyncContextManager[object]  # of the worker's slots, where the class has one
    on_idle: "Callable[[Cell], object]"  # told when the mail is handled
    mail: deque[Letter] = field(factory=deque, init=False)
    task: asyncio.Task[None] | None = field(default=None, init=False)
    at: Letter | None = field(default=None, init=False)  # the message at hand, and
    current: Run | None = field(default=None, init=False)  # the handling of it
    idle_since: float = field(default=0.0, init=False)  # loop time
    is_closing: bool = field(default=False, init=False)  # handles nothing more: its mail is given back
    keeps_state: bool = field(init=False)  # its class has a snapshot
    _kept: Kept | None = field(default=None, init=False)
    _state: bytes | None = field(default=None, init=False)  # as of the last message, committed or about to be
    _results: dict[str, bytes] = field(factory=dict, init=False)  # to be committed with it
    _is_changed: bool = field(default=False, init=False)

    @property
    def is_live(self) -> bool:
        """Whether there is more of it here than its name."""
        return self.resident is not None or self._kept is not None

    @keeps_state.default
    def _has_snapshot(self) -> bool:
        return self.actor.snapshot is not Actor.snapshot

    def post(self, letter: Letter) -> None:
        """Handle one more message, after all that came before."""
        self.mail.append(letter)
        if self.task is None:
            self.wake()

    def wake(self) -> None:
        """Handle the mail."""
        self.task = asyncio.get_running_loop().create_task(self._work())

    def let_go(self, reason: str) -> None:
        """Let the waiting instance go; mail that comes meanwhile brings the name back."""
        self.task = asyncio.get_running_loop().create_task(self._leave(reason))

    async def close(self, reason: str) -> None:
        """Finish the message at hand, give the others back, and let the instance go."""
        self.is_closing = True
        if self.task is None:
            self.let_go(reason)
        while self.task is not None:
            await asyncio.wait([self.task])

    def end(self, why: Stop) -> None:
        """End the message at hand."""
        if self.current is not None:
            self.current.stop(why)

    # -- as a host --------------------------------------------------------------------------------

    async def instance(self) -> Actor[Any, Any]:
        """Return the instance, made and restored if there is none. Raises `StateError`."""
        if self.resident is None:
            try:
                made = self.actor()
                if self._state is not None:
                    made.restore(_codec(self.actor).decode(self._state))
                if self.actor.started is not Actor.started:
                    await made.started()
            except Exception as error:
                raise self._state_error(f"could not be brought back: {_told(error)}") from error
            self.resident = made
        return self.resident

    def give_back(self, instance: Actor[Any, Any]) -> None:
        """The instance stays where it is."""

    # -- the loop ---------------------------------------------------------------------------------

    async def _work(self) -> None:
        slots = self.crew.slots
        try:
            while self.mail and not self.is_closing:
                async with self.share:
                    if not slots.try_enter():
                        await slots.enter()
                    try:
                        await self._batch()
                    finally:
                        slots.leave()
                await asyncio.sleep(0)  # who was just answered often asks again at once
        except asyncio.CancelledError:
            self.is_closing = True  # the loop ends
            raise
        except Exception:  # noqa: BLE001  ours: the name begins anew
            logger.exception("the worker broke at {} {!r}", self.entry.name, self.key)
            self._forget()
            await asyncio.sleep(1.0)
        finally:
            self.task = None
            if self.is_closing:
                self._give_all_back()
            if self.mail:
                self.wake()
            else:
                self.on_idle(self)

    async def _batch(self) -> None:
        """Handle a few messages, commit what they did, and answer them."""
        done: list[Letter] = []
        until = time.perf_counter() + _TOGETHER
        try:
            if self.keeps_state and self._kept is None:
                await self._take()
            while self.mail and len(done) < _MOST and not self.is_closing:
                letter = self.mail.popleft()
                if not letter.is_wanted:
                    await letter.lost()
                    continue
                try:
                    is_done = await self._handled(letter)
                except BaseException:
                    self.mail.appendleft(letter)
                    raise
                if is_done:
                    done.append(letter)
                if time.perf_counter() > until:
                    break
            if self._is_changed:
                assert self._kept is not None
                await self._kept.commit(self._state, self._results)
                self._results, self._is_changed = {}, False
        except BaseException as error:
            self.mail.extendleft(reversed(done))  # nothing was said of them, and nothing they did is kept
            self._forget()
            if not isinstance(error, Fenced):
                raise
            logger.warning("{} {!r} lives elsewhere now; what it did here is not kept", self.entry.name, self.key)
            if self.is_shared:
                self._give_all_back()
            return
        for letter in done:
            letter.settle()

    async def _handled(self, letter: Letter) -> bool:
        """Handle one message; whether there is an answer to be given after the commit."""
        crew, kept = self.crew, self._kept
        if kept is not None and kept.results and (known := kept.results.get(letter.task_id)) is not None:
            letter.known(known)
            return True
        if letter.is_refused(self.redelivery):
            return True
        if crew.hooks.start:
            await call(crew.hooks.start, letter.task_id, self.entry.name)
        assert self.task is not None
        run = self.current = letter.attempt(self, crew, self.task)
        self.at = letter
        end = await run.run(crew.publisher)
        self.current = self.at = None
        if type(end) is Output:
            if (problem := self._succeeded(letter, run, end.body)) is not None:
                await self._failed(letter, run, problem)
            elif crew.hooks.complete:
                await call(crew.hooks.complete, letter.task_id, self.entry.name, run.duration_ms)
        elif isinstance(end, Raised):
            await self._failed(letter, run, end.error)
        elif isinstance(end, Stopped) and end.why is Stop.TIMEOUT:
            await self._failed(letter, run, timed_out(run.claim, self.entry.name, run.limit))
        else:
            self.resident = None  # stopped in the middle
            if isinstance(end, Stopped) and end.why is Stop.DRAIN:
                self.mail.appendleft(letter)
                self.is_closing = True
            else:
                await letter.lost()
            return False
        return True

    def _succeeded(self, letter: Letter, run: Run, body: bytes) -> StateError | PayloadTooLarge | None:
        """Note what is to be committed; return why that cannot be done."""
        try:
            result = letter.succeeded(body, run)
            if not self.keeps_state:
                return None
            state = self._snapshot()
        except (StateError, PayloadTooLarge) as error:
            return error
        if state != self._state:
            self._state, self._is_changed = state, True
            if result is not None:
                self._results[letter.task_id] = result
        return None

    async def _failed(self, letter: Letter, run: Run, error: BaseException) -> None:
        instance, crew = self.resident, self.crew
        if instance is None or isinstance(error, StateError | PayloadTooLarge):
            directive = Directive.RESUME
        else:
            directive = directive_of(instance, error)
        verdict = after_failure(directive, run.claim, self.redelivery, random=random.random())  # noqa: S311  jitter
        letter.failed(error, verdict, duration_ms=run.duration_ms)
        log_failure(run.claim, self.entry.name, error, verdict)
        if instance is not None and (self.keeps_state or directive is not Directive.RESUME):
            self.resident = None
            await self.drop(instance, error, run.message.input)
        if directive is Directive.STOP:
            host = crew.hosts[self.entry.name]
            host.is_stopped = True
            host.on_held(host, "stopped by the directive of an error")
        elif directive is Directive.ESCALATE:
            crew.escalated.set()
        if crew.hooks.error:
            await call(crew.hooks.error, letter.task_id, self.entry.name, error)

    # -- state ------------------------------------------------------------------------------------

    async def _take(self) -> None:
        kept = Kept(self.crew.queue.store, self.entry.name, self.key, owner=self.owner)
        try:
            await kept.take()
        except Unreadable as error:
            problem = self._state_error(f"is not readable: {error}")
            for letter in self.mail:
                letter.failed(problem, Answer(), duration_ms=0)
                letter.settle()
            self.mail.clear()
            logger.error("{}", problem)
            return
        self._kept, self._state = kept, kept.state

    def _snapshot(self) -> bytes | None:
        assert self.resident is not None
        try:
            value = self.resident.snapshot()
            state = None if value is None else _codec(self.actor).encode_checked(value)
        except Exception as error:
            raise self._state_error(f"could not be kept: {_told(error)}") from error
        if state is not None and len(state) > MAX_STATE:
            raise self._state_error(f"takes {len(state):,} bytes, at most {MAX_STATE:,} are allowed")
        return state

    def _state_error(self, problem: str) -> StateError:
        return StateError(self.entry.name, self.key, problem)

    def _forget(self) -> None:
        """Begin anew from the store with the next message."""
        self.resident = self._kept = self._state = None
        self._results, self._is_changed = {}, False

    async def _leave(self, reason: str) -> None:
        try:
            instance, kept = self.resident, self._kept
            self._forget()
            if instance is not None and self.actor.stopped is not Actor.stopped:
                async with asyncio.timeout(_STOP_WITHIN):
                    await instance.stopped(reason)
            if kept is not None:
                await kept.leave()
        except Fenced:
            return  # somebody else's by now
        except Exception:  # noqa: BLE001  the name is let go all the same
            logger.exception("letting {} {!r} go failed", self.entry.name, self.key)
        finally:
            self.task = None
            if self.is_closing:
                self._give_all_back()
            if self.mail:
                self.wake()
            else:
                self.on_idle(self)

    def _give_all_back(self) -> None:
        mail = list(self.mail)
        self.mail.clear()
        for letter in mail:
            letter.give_back()


def _codec(actor: Any) -> PayloadCodec:
    return codec_for(returned_type(actor.snapshot))


def _told(error: Exception) -> str:
    return "; ".join(error.problems) if isinstance(error, Misfit) else f"{type(error).__name__}: {error}"
