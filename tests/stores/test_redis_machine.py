"""Random histories of the fused Redis store: whatever comes in which order, nothing is lost and nothing runs twice.

Two workers that come and go, a publisher, and a stranger who sends copies, against a model of
a few fields a task. At the end of each history everything that is still queued must be handed
out, everything that is over must have rung with its one result, and nothing else may be left.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from attrs import define
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from murmur.envelope import ErrorNote
from murmur.store import Burial, Busy, Claim, Completion, Failure, GrantRequest, NewTask, Row, State, Written
from murmur.stores import redis as stores
from murmur.stores.redis import RedisStore
from murmur.transport import Delivery, Outgoing, TopicKind, TopicSpec
from murmur.transports import redis as transports
from murmur.transports.redis import RedisTransport
from tests.brokers.redis_server import RedisServer

T = TypeVar("T")
TASKS = ("a", "b", "c", "d")
TOPIC, INBOX = "echo.tasks", "inbox.p"
SPEC = TopicSpec(TOPIC, lease=60.0, dead_topic="echo.dead")


@define
class Model:
    """What a task must look like. Without a row, only copies by a stranger are on their way."""

    has_row: bool = False
    state: State = State.QUEUED
    grants: int = 0
    failures: int = 0
    crashes: int = 0
    worker: int = 0
    result: bytes | None = None
    last: tuple[int, str] | None = None  # the token and verb that ended the last lease


@define
class Node:
    """A process' pair of adapters."""

    transport: RedisTransport
    store: RedisStore

    async def close(self) -> None:
        await self.store.close()
        await self.transport.close()


def body(task_id: str) -> bytes:
    return b'{"v":1,"task_id":"%s","agent":"echo","input":1,"reply_to":"inbox.p"}' % task_id.encode()


def request(delivery: Delivery) -> GrantRequest:
    task_id = delivery.id or delivery.body.decode().split('"')[5]
    return GrantRequest(delivery, task_id, "echo", INBOX)


class FusedMachine(RuleBasedStateMachine):
    """Every verb in any order, without waiting for leases."""

    claims = Bundle("claims")

    def __init__(self, server: RedisServer) -> None:
        super().__init__()
        server.flush()
        self.url = server.url
        self.runner = asyncio.Runner()
        self.publisher = self.run(self.node("p", TopicSpec(INBOX, TopicKind.INBOX)))
        self.workers = [self.run(self.node(f"w{number}", SPEC)) for number in range(2)]
        self.models: dict[str, Model] = {}
        self.seen: dict[str, Row] = {}
        self.results = 0

    # -- what parties do --------------------------------------------------------------------------------------------

    @rule(task_ids=st.lists(st.sampled_from(TASKS), min_size=1, max_size=4))
    def admit(self, task_ids: list[str]) -> None:
        answers = self.run(
            self.publisher.store.admit([NewTask(one, "echo", TOPIC, body(one), INBOX) for one in task_ids])
        )
        for task_id, answer in zip(task_ids, answers, strict=True):
            model = self.models.setdefault(task_id, Model())
            assert (answer.fresh, answer.state, answer.result) == (not model.has_row, model.state, model.result)
            model.has_row = True

    @rule(task_id=st.sampled_from(TASKS))
    def send_a_copy(self, task_id: str) -> None:
        self.models.setdefault(task_id, Model())
        self.run(self.publisher.transport.publish([Outgoing(TOPIC, body(task_id), "")]))

    @rule(target=claims, worker=st.integers(0, 1), credit=st.integers(1, 4))
    def take(self, worker: int, credit: int) -> object:
        return multiple(*self.taken(worker, credit) or ())

    @rule(claims_=st.lists(claims, min_size=1, max_size=3), expired=st.booleans())
    def complete(self, claims_: list[Claim], expired: bool) -> None:
        state = State.EXPIRED if expired else State.DONE
        completions = [Completion(claim, self.next_result(), state) for claim in claims_]
        answers = self.run(self.workers[0].store.complete(completions))
        for one, written in zip(completions, answers, strict=True):
            if self.settles(one.claim, state.value, written):
                self.end(one.claim.task_id, state, one.result)

    @rule(claim=claims, crashed=st.booleans())
    def fail(self, claim: Claim, crashed: bool) -> None:
        note = ErrorNote(attempt=claim.attempts, error_type="E", message="m", at=0.0)
        (written,) = self.run(self.workers[1].store.fail([Failure(claim, 0.0, note, crashed)]))
        if self.settles(claim, "fail", written):
            model = self.models[claim.task_id]
            model.state = State.QUEUED
            model.failures, model.crashes = model.failures + (not crashed), model.crashes + crashed

    @rule(claim=claims)
    def release(self, claim: Claim) -> None:
        (written,) = self.run(self.workers[0].store.release([claim]))
        if self.settles(claim, "release", written):
            self.models[claim.task_id].state = State.QUEUED

    @rule(claim=consumes(claims))
    def bury(self, claim: Claim) -> None:
        result = self.next_result()
        (written,) = self.run(
            self.workers[1].store.bury([Burial(claim, "r", b'"' + claim.task_id.encode() + b'"', result)])
        )
        if self.settles(claim, State.DEAD.value, written):
            self.end(claim.task_id, State.DEAD, result)

    @rule(task_id=st.sampled_from(TASKS))
    def cancel(self, task_id: str) -> None:
        result = self.next_result()
        states = dict(self.run(self.publisher.store.cancel({task_id: result})))
        model = self.models.get(task_id)
        if model is None or not model.has_row:
            assert states == {}
            return
        if not model.state.is_terminal:
            self.end(task_id, State.CANCELLED, result)
            model.last = None
        assert states == {task_id: model.state}

    @rule(claim=claims)
    def record(self, claim: Claim) -> None:
        assert list(self.run(self.workers[0].store.renew([claim]))) == [self.may_write(claim)]

    @rule(worker=st.integers(0, 1))
    def restart(self, worker: int) -> None:
        """What a worker holds goes back uncounted when it closes."""
        self.run(self.workers[worker].close())
        for model in self.models.values():
            if model.state is State.LEASED and model.worker == worker:
                model.state, model.last = State.QUEUED, (model.grants, "release")
        self.workers[worker] = self.run(self.node(f"w{worker}", SPEC))

    @rule()
    def sweep(self) -> None:
        self.run(self.publisher.store.sweep([TOPIC]))

    # -- what must always hold --------------------------------------------------------------------------------------

    @invariant()
    def rows_are_what_the_model_says_and_nothing_falls(self) -> None:
        rows = dict(zip(TASKS, self.run(self.publisher.store.read(TASKS)), strict=True))
        for task_id, row in rows.items():
            model = self.models.get(task_id, Model())
            assert (row is not None) == model.has_row
            if row is None:
                continue
            assert (row.state, row.result, row.token, row.attempts) == (
                model.state,
                model.result,
                model.grants,
                model.grants,
            )
            assert (row.failures, row.crashes, row.lapses) == (model.failures, model.crashes, 0)
            before = self.seen.get(task_id, row)
            assert row.token >= before.token
            assert not before.state.is_terminal or row == before
            self.seen[task_id] = row

    def teardown(self) -> None:
        """Hand out what is left, and look for what should not be."""
        try:
            waiting = {one for one, model in self.models.items() if model.state is State.QUEUED}
            while (claims := self.taken(0, 10)) is not None:
                waiting -= {claim.task_id for claim in claims}
                self.complete(claims, expired=False)
            self.complete_the_leased()
            assert waiting == set(), "queued, but never handed out"
            over = {one: model.result for one, model in self.models.items() if model.state.is_terminal}
            bells = self.run(self.bells(len(over)))
            assert bells == set(over.values())
            stats = self.run(self.publisher.transport.stats(TOPIC, "workers"))
            assert (stats.ready, stats.inflight) == (0, 0)
            letters = self.run(self.publisher.store.dead_letters("echo"))
            buried = [one for one, model in self.models.items() if model.state is State.DEAD]
            assert sorted(letters) == sorted(b'"' + one.encode() + b'"' for one in buried)
        finally:
            for node in (*self.workers, self.publisher):
                self.run(node.close())
            self.runner.close()

    # -- the model's own steps --------------------------------------------------------------------------------------

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(coroutine)

    async def node(self, name: str, *specs: TopicSpec) -> Node:
        transport = transports.connect(self.url, consumer_id=name, namespace="", lease=60.0)
        store = stores.connect(self.url, namespace="", retention=600.0, mailbox=transport)
        await transport.open(specs)
        await store.open(owner=name, lease=60.0)
        return Node(transport, store)

    async def bells(self, count: int) -> set[bytes]:
        """Return the different results that rang, once there are so many."""
        bells, deadline = set[bytes](), asyncio.get_running_loop().time() + 5.0
        while len(bells) < count and asyncio.get_running_loop().time() < deadline:
            some = await self.publisher.transport.receive("", {INBOX: 1_000}, credit=1_000, wait=0.5)
            bells |= {one.body for one in some}
        return bells

    def taken(self, worker: int, credit: int) -> list[Claim] | None:
        """Receive, and check that what may start is what waits; None if nothing came."""
        node = self.workers[worker]
        deliveries = self.run(node.transport.receive("workers", {TOPIC: credit}, credit=credit, wait=0.02))
        if not deliveries:
            return None
        claims = []
        for grant in self.run(node.store.grant([request(one) for one in deliveries])):
            model = self.models[grant.task_id]
            if isinstance(grant, Claim):
                assert model.state is State.QUEUED
                model.has_row, model.state, model.worker, model.last = True, State.LEASED, worker, None
                model.grants += 1
                counts = (model.grants, model.grants, model.failures, model.crashes)
                assert (grant.token, grant.attempts, grant.failures, grant.crashes) == counts
                claims.append(grant)
            elif isinstance(grant, Busy):
                assert model.state is State.LEASED or not grant.delivery.id  # a copy of one that waits
                self.run(node.transport.release([grant.delivery], delay=60.0))
            else:
                assert (grant.state, grant.result) == (model.state, model.result)
        return claims

    def complete_the_leased(self) -> None:
        """End what workers still hold, as an operator does who wants to see an empty topic."""
        for task_id, model in self.models.items():
            if model.state is State.LEASED:
                self.cancel(task_id)

    def may_write(self, claim: Claim) -> bool:
        model = self.models[claim.task_id]
        return model.state is State.LEASED and model.grants == claim.token

    def settles(self, claim: Claim, verb: str, written: Written) -> bool:
        model = self.models[claim.task_id]
        if self.may_write(claim):
            assert written is Written.STORED
            model.last = (claim.token, verb)
            return True
        if verb == "release" and written is Written.REPEATED:
            return False  # whoever gave it back for us
        assert written is (Written.REPEATED if model.last == (claim.token, verb) else Written.STALE)
        return False

    def end(self, task_id: str, state: State, result: bytes) -> None:
        model = self.models[task_id]
        model.state, model.result = state, result

    def next_result(self) -> bytes:
        self.results += 1
        return str(self.results).encode()


def test_no_history_loses_or_repeats_a_task(redis_server: RedisServer) -> None:
    run_state_machine_as_test(
        lambda: FusedMachine(redis_server),
        settings=settings(
            max_examples=25, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
        ),
    )
