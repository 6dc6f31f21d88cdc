"""Simulated courses of named actors: real workers and publishers in virtual time, killed, frozen and drained by dice.

What must hold whatever happens: every message that was answered stands in its name's state once, together with exactly
what its answer said; nothing stands there that was not sent; and one name is never at work twice within one lease.
"""

import asyncio
import contextlib
import io
import itertools
import random
import secrets
import time
from collections import Counter
from typing import Any, Final
from unittest import mock

import msgspec
from attrs import define, field
from loguru import logger

from murmur import Actor
from murmur.errors import MurmurError
from murmur.named import Named
from murmur.policy import Backoff, Redelivery
from murmur.testing import SimulatedFleet
from murmur.testing.network import RoughNetwork
from murmur.worker.named_record import PREFIX, Record

LEASE: Final = 4.0
WORKERS: Final = ("w1", "w2", "w3")
NAMES: Final = ("a", "b", "c")
HORIZON: Final = 600.0


@define
class Seen:
    """What a course showed."""

    sent: dict[str, list[str]] = field(factory=dict)  # messages by name, in the order in which they were sent
    answers: dict[str, list[str]] = field(factory=dict)  # state that came back, by message
    refused: set[str] = field(factory=set)  # messages answered with an error
    states: dict[str, list[str]] = field(factory=dict)  # by name, as the store has it at the end


def play(seed: int, *, rough: bool, messages: int = 12) -> Seen:
    """Return what the course of a seed showed. Deterministic."""
    dice = random.Random(seed)
    logger.disable("murmur")
    state = random.getstate()
    random.seed(seed)
    network = RoughNetwork(dice, delay=0.02, trouble=0.02) if rough else None
    try:
        with (
            contextlib.redirect_stderr(io.StringIO()),
            mock.patch.object(secrets, "token_hex", lambda size=8: f"{dice.getrandbits(size * 8):0{size * 2}x}"),
        ):
            return SimulatedFleet.run(_Course(dice, messages).run, network=network)
    finally:
        random.setstate(state)
        logger.enable("murmur")


def violations(seen: Seen, *, in_order: bool) -> list[str]:
    """Return what a course broke."""
    broken = []
    for name, sent in seen.sent.items():
        state = seen.states.get(name, [])
        broken += [f"{name}: {one} stands {count} times" for one, count in Counter(state).items() if count > 1]
        broken += [f"{name}: {one} was never sent" for one in state if one not in sent]
        for one in sent:
            if one in seen.answers:
                answer = seen.answers[one]
                if one not in state:
                    broken.append(f"{name}: {one} was answered and is not kept")
                elif answer != state[: state.index(one) + 1]:
                    broken.append(f"{name}: {one} was answered {answer}, kept is {state}")
            elif one in seen.refused and one in state:
                broken.append(f"{name}: {one} was refused and is kept")
        if in_order and state != [one for one in sent if one not in seen.refused]:
            broken.append(f"{name}: sent {sent}, kept in another order: {state}")
        if len(seen.answers.keys() & set(sent)) + len(seen.refused & set(sent)) < len(sent):
            broken.append(f"{name}: not everything was answered")
    return broken


class _Course:
    def __init__(self, dice: random.Random, messages: int) -> None:
        self._dice = dice
        self._messages = messages
        self._seen = Seen()
        self._boots = itertools.count(1)
        self._nodes = {place: place for place in WORKERS}
        self._locks = {name: asyncio.Lock() for name in WORKERS}

        class Register(Actor[str, list[str]]):
            named = Named(idle_after=3.0)
            redelivery = Redelivery(max_deliveries=9, max_crashes=9, backoff=Backoff(initial=0.1, cap=0.5))

            def __init__(self) -> None:
                self.entries: list[str] = []

            def snapshot(self) -> list[str]:
                return self.entries

            def restore(self, state: list[str]) -> None:
                self.entries = state

            async def receive(self, message: str) -> list[str]:
                self.entries.append(message)
                if "slow" in message:
                    await asyncio.sleep(0.5)
                if "bad" in message:
                    raise ValueError(message)
                return list(self.entries)

            def decide(self, error: BaseException) -> Any:
                from murmur import Directive

                return Directive.RESUME

        self._actor = Register

    async def run(self, fleet: SimulatedFleet) -> Seen:
        with mock.patch.object(time, "perf_counter", asyncio.get_running_loop().time):
            for name in WORKERS:
                await self._start(fleet, name)
            asking = [asyncio.ensure_future(self._ask(fleet, name)) for name in NAMES]
            troubles = [asyncio.ensure_future(self._trouble(fleet)) for _ in range(self._dice.randrange(1, 4))]
            async with asyncio.timeout(HORIZON):
                await asyncio.gather(*asking, *troubles)
            found = fleet.tables.listed(PREFIX)
            for key, value in found.items():
                record = msgspec.msgpack.decode(value, type=Record)
                if record.state is not None:
                    self._seen.states[key.rpartition(":")[2]] = msgspec.json.decode(record.state)
            return self._seen

    async def _start(self, fleet: SimulatedFleet, name: str) -> None:
        await fleet.start(name, agents=[self._actor], concurrency=2, lease=LEASE, drain=LEASE)

    async def _ask(self, fleet: SimulatedFleet, name: str) -> None:
        """Send bursts to one name."""
        dice, ref = self._dice, fleet.runtime.ref(self._actor, name)
        sent = self._seen.sent[name] = []
        asks = []
        for number in range(self._messages):
            kind = dice.choices(("", "slow", "bad"), (6, 2, 1))[0]
            sent.append(f"{name}{number}{kind}")
            asks.append(asyncio.ensure_future(self._one(ref, sent[-1])))
            if dice.random() < 0.4:
                await asyncio.sleep(dice.uniform(0.0, 3.0))
        await asyncio.gather(*asks)

    async def _one(self, ref: Any, message: str) -> None:
        try:
            self._seen.answers[message] = await ref.ask(message)
        except MurmurError:
            self._seen.refused.add(message)

    async def _trouble(self, fleet: SimulatedFleet) -> None:
        dice = self._dice
        await asyncio.sleep(dice.uniform(0.0, 8.0))
        place, kind, length = dice.choice(WORKERS), dice.choice(("kill", "stall", "drain")), dice.uniform(0.1, 12.0)
        async with self._locks[place]:
            name = self._nodes[place]
            if kind == "drain":
                await fleet.stop(name)
            elif kind == "stall":
                fleet.stall(name)
            else:
                fleet.kill(name)
            await asyncio.sleep(length)
            if kind == "stall":
                fleet.resume(name)
                return
            # Under a new name: where rows and messages are apart, a restart under the old one gets them back at
            # different times.
            self._nodes[place] = f"{place}-{next(self._boots)}"
            await self._start(fleet, self._nodes[place])
