"""The delivery protocol: a transport and a store, joined in the one order that loses nothing.

Publishing: row first, then the message; a store may leave the row of a new task to its first
grant. Working: message, grant, run, terminal row, result message, settle. Where the store lives
in the broker (`Store.moves_messages`) it does these steps at once, and nobody else sees a
difference. Nothing is decided here, and nothing retried: callers know what is worth it.
"""

import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from loguru import logger
from msgspec import Struct
from msgspec.structs import replace

from murmur import stowage
from murmur.envelope import (
    ResultMessage,
    TaskMessage,
    check_size,
    decode_letter,
    decode_result,
    decode_task,
    digest,
    encode,
    letter_of,
)
from murmur.errors import BadEnvelope, BadTaskId
from murmur.ids import check_task_id
from murmur.limits import MAX_ENVELOPE, MAX_INLINE
from murmur.names import Topics
from murmur.patience import patiently
from murmur.settling import given_back, known
from murmur.signing import HEADER, MAX_SIGNATURE, TASK, Seal
from murmur.store import (
    Admission,
    Burial,
    Busy,
    Claim,
    Completion,
    Failure,
    Finished,
    GrantRequest,
    NewTask,
    State,
    Store,
    Written,
)
from murmur.transport import Delivery, Outgoing, Refusal, Settled, TopicKind, TopicSpec, Transport

GROUP = "workers"
_QUARANTINE = "quarantine:"
_MARK = "Murmur-Row"  # header: the `Admission.mark` of the row that was made for the message
_INBOX_READ = 1000  # results one read of an inbox takes at most


class Work(Struct, frozen=True, eq=False):
    """A task that may start now: the right to it, and its envelope."""

    claim: Claim
    message: TaskMessage


class Release(Struct, frozen=True, eq=False):
    """A task given back uncounted, to be available after `delay` seconds."""

    claim: Claim
    delay: float = 0.0


Ending = Completion | Failure | Release | Burial


class TaskQueue:
    """Tasks of one namespace between publishers and workers."""

    def __init__(self, transport: Transport, store: Store, topics: Topics, seal: Seal | None = None) -> None:
        self._seal = seal
        self.transport = transport
        self.store = store
        self.topics = topics
        self._lease: float | None = None

    async def open(self, *, owner: str, lease: float | None) -> None:
        """Connect both. Raises `BrokerUnreachable`, `BrokerRefused` within 10 s."""
        self._lease = lease
        await self.transport.open(())
        await self.store.open(owner=owner, lease=lease)

    async def close(self, *, grace: float = 5.0) -> None:
        """Give back what is ours, then disconnect."""
        await self.transport.close(grace=grace)
        await self.store.close()

    # -- publishers -------------------------------------------------------------------------------

    async def open_tasks(self, agents: Sequence[str]) -> None:
        """Declare the mailboxes of agents, so that what is published before any worker exists waits for it."""
        await self.transport.open(
            [TopicSpec(name=self.topics.tasks(a), lease=self._lease, dead_topic=self.topics.dead(a)) for a in agents]
        )

    async def open_inbox(self, inbox: str) -> None:
        """Declare one publisher's reply inbox."""
        await self.transport.open([TopicSpec(name=inbox, kind=TopicKind.INBOX)])

    @property
    def inline(self) -> int:
        """Bytes that an envelope may have; beyond them its payload is stowed, or refused where nothing is kept."""
        most, max_body = MAX_INLINE if self.store.keeps_rows else MAX_ENVELOPE, self.transport.caps.max_body
        return most if max_body is None else min(most, max_body - MAX_SIGNATURE)

    async def submit(self, tasks: Sequence[NewTask]) -> Sequence[Admission | Refusal]:
        """Admit tasks and put their messages into the mailboxes; one answer each, in order."""
        refused = await stowage.put_all(self.store, tasks)
        admitted = iter(await self._admitted([task for task in tasks if task.task_id not in refused]))
        return [refused.get(task.task_id) or next(admitted) for task in tasks]

    async def _admitted(self, tasks: Sequence[NewTask]) -> Sequence[Admission | Refusal]:
        if self._seal is not None:
            tasks = [self._signed(task, self._seal) for task in tasks]
        admissions = await self.store.admit(tasks)
        if self.store.moves_messages:
            return admissions
        # A row that is QUEUED but not new may be one whose publisher died before this step:
        # a second message is harmless, for only one grant can succeed.
        waiting = [i for i, admission in enumerate(admissions) if admission.state is State.QUEUED]
        receipts = await self.transport.publish([self._first(tasks[i], admissions[i].mark) for i in waiting])
        answers: list[Admission | Refusal] = list(admissions)
        for i, receipt in zip(waiting, receipts, strict=True):
            if isinstance(receipt, Refusal):
                answers[i] = receipt
            elif receipt.duplicate and tasks[i].is_new:  # it was not
                (answers[i],) = await self.store.admit([replace(tasks[i], is_new=False)])
        return answers

    async def replies(self, inbox: str, *, wait: float) -> Sequence[Delivery]:
        """Return encoded ResultMessages that came into an inbox, as soon as there is one."""
        return await self.transport.receive("", {inbox: _INBOX_READ}, credit=_INBOX_READ, wait=wait)

    def result(self, body: bytes) -> ResultMessage:
        """Return the ResultMessage that came to an inbox, or stands in a row. Raises `BadEnvelope`, `BadSignature`."""
        return decode_result(self.opened(body))

    def opened(self, body: bytes) -> bytes:
        """Return an encoded ResultMessage without its signature, which is ours. Raises `BadSignature`."""
        return body if self._seal is None else self._seal.opened(body)

    async def cancel(self, results: Mapping[str, bytes], new: Sequence[NewTask] = ()) -> Mapping[str, State]:
        """End tasks with these results, unless they have ended. `new`: those that may have no row yet to cancel."""
        if new and not self.store.moves_messages:
            await self.store.admit([replace(task, is_new=False) for task in new])
        if self._seal is not None:
            results = {task_id: self._seal.sealed(result) for task_id, result in results.items()}
        return await self.store.cancel(results)

    async def is_empty(self, agent: str) -> bool:
        """Whether no message of an agent can be found, delayed ones aside, by a broker apart from the rows."""
        if self.store.moves_messages:
            return False  # row and message are one
        stats = await self.transport.stats(self.topics.tasks(agent), GROUP)
        return stats.exact and stats.ready == 0 and stats.inflight == 0

    async def is_settled(self, mailbox: str) -> bool:
        """Give back what lapsed of a mailbox; whether nothing of it is in anybody's hand any more."""
        topic = self.topics.tasks(mailbox)
        await self.store.sweep([topic])
        return not (await self.transport.stats(topic, GROUP)).inflight

    # -- workers ----------------------------------------------------------------------------------

    async def receive(self, agents: Mapping[str, int], *, credit: int, wait: float) -> Sequence[Delivery]:
        """Wait for messages: at most `credit`, and `agents[name]` of each agent. Cancelling loses nothing."""
        topics = {self.topics.tasks(agent): most for agent, most in agents.items()}
        return await self.transport.receive(GROUP, topics, credit=credit, wait=wait)

    def granted(self, deliveries: Sequence[Delivery]) -> Sequence[Work] | None:
        """Return the tasks of messages whose grants came with them, if all did and all are tasks. Else ask `grant`."""
        if not self.store.moves_messages:
            return None  # nobody but the messages' own server could have granted them
        try:
            messages = [self._opened(delivery) for delivery in deliveries]
        except BadEnvelope:
            return None
        claims = self.store.granted([self._request(*one) for one in zip(deliveries, messages, strict=True)])
        return None if claims is None else [Work(*one) for one in zip(claims, messages, strict=True)]

    async def grant(self, deliveries: Sequence[Delivery]) -> Sequence[Work]:
        """Return the tasks of received messages that may start; the others are settled or given back.

        Not to be cancelled: a grant nobody heard of holds its task until the lease lapses.
        """
        requests: list[GrantRequest] = []
        messages: list[TaskMessage] = []
        for delivery in deliveries:
            try:
                message = self._opened(delivery)
            except BadEnvelope as error:
                await self._quarantine(delivery, error)
                continue
            messages.append(message)
            requests.append(self._request(delivery, message))
        return await self._granted(requests, messages) if requests else ()

    async def settle(self, endings: Sequence[Ending]) -> Sequence[Written]:
        """Write how attempts ended, then ring and settle; one answer each, in order. May be repeated as a whole."""
        if self._seal is not None:
            endings = [_sealed(ending, self._seal) for ending in endings]
        groups: dict[type, list[int]] = {}
        for at, ending in enumerate(endings):
            groups.setdefault(type(ending), []).append(at)
        answers: dict[int, Written] = {}
        for kind, places in groups.items():
            answers.update(zip(places, await self._write(kind, [endings[at] for at in places]), strict=True))
        return [answers[at] for at in range(len(endings))]

    async def disown(self, claim: Claim) -> None:
        """Let go of the message of a task that is no longer ours. One that ended, as by a cancel, is answered again."""
        if not self.store.moves_messages:
            await patiently(lambda: self._disowned(claim))

    async def _disowned(self, claim: Claim) -> None:
        (row,) = await self.store.read([claim.task_id])
        if row is not None and row.state.is_terminal:
            await self._answer_again(Finished(claim.task_id, claim.delivery, row.state, row.result), claim.reply_to)
        else:  # its row is not ours, but the message may be
            await self._give_back(claim.delivery)

    async def dead_letters(self, agent: str, *, limit: int = 100) -> Sequence[bytes]:
        """Return the newest dead letters of an agent, newest first: tasks given up, and bytes that were no task."""
        letters = list(await self.store.dead_letters(agent, limit=limit))
        if not self.store.moves_messages:
            letters += (await self.store.listed(f"{_QUARANTINE}{agent}:")).values()
            letters.sort(key=lambda raw: decode_letter(raw).dead_at, reverse=True)
        return letters[:limit]

    async def forget_letters(self, agent: str, letters: Sequence[bytes]) -> int:
        """Forget dead letters, given as `dead_letters` returned them; return how many there were."""
        found = await self.store.forget_letters(agent, letters)
        if not self.store.moves_messages:
            gone = set(letters)
            there = await self.store.listed(f"{_QUARANTINE}{agent}:")
            keys = [key for key, letter in there.items() if letter in gone]
            await self.store.delete(keys)
            found += len(keys)
        return found

    def lost(self) -> AsyncIterator[Delivery]:
        """Yield deliveries that are no longer ours. See `Transport.lost`."""
        return self.transport.lost()

    # -- the steps a store of its own leaves to us ------------------------------------------------

    async def _granted(self, requests: list[GrantRequest], messages: list[TaskMessage]) -> Sequence[Work]:
        work = []
        for grant, message in zip(await self.store.grant(requests), messages, strict=True):
            if type(grant) is Claim:
                work.append(Work(grant, message))
            elif type(grant) is Finished:
                await self._answer_again(grant, message.reply_to)
            elif type(grant) is Busy:
                await self._give_back(grant.delivery, delay=grant.retry_after)
        return work

    async def _answer_again(self, grant: Finished, reply_to: str | None) -> None:
        """A redelivery after the end: the stored result is sent again, user code does not run."""
        if self.store.moves_messages:
            return
        emit = []
        if grant.result is not None and reply_to is not None:
            emit = [_result(grant.delivery, reply_to, grant.result, grant.task_id)]
        await known(lambda: self.transport.ack([grant.delivery], emit=emit))

    async def _write(self, kind: type, endings: Sequence[Any]) -> Sequence[Written]:
        if kind is Completion:
            return await self._complete(endings)
        if kind is Failure:
            return await self._fail(endings)
        if kind is Release:
            return await self._release(endings)
        return await self._bury(endings)

    async def _complete(self, completions: Sequence[Completion]) -> Sequence[Written]:
        written = await self.store.complete(completions)
        if not self.store.moves_messages:
            await self._ring([(c.claim, c.result) for c in completions], written)
        return written

    async def _bury(self, burials: Sequence[Burial]) -> Sequence[Written]:
        written = await self.store.bury(burials)
        if not self.store.moves_messages:
            await self._ring([(b.claim, b.result) for b in burials], written)
        return written

    async def _ring(self, results: Sequence[tuple[Claim, bytes]], written: Sequence[Written]) -> None:
        emit, ours, stale = [], [], []
        for (claim, result), answer in zip(results, written, strict=True):
            if answer is Written.STALE:
                stale.append(claim.delivery)
                continue
            ours.append(claim.delivery)
            if claim.reply_to is not None:
                emit.append(_result(claim.delivery, claim.reply_to, result, claim.task_id))
        if ours:
            await known(lambda: self.transport.ack(ours, emit=emit))
        for delivery in stale:  # if the message is still ours, its row ended or moved on: the next grant finds out
            await self._give_back(delivery)

    async def _fail(self, failures: Sequence[Failure]) -> Sequence[Written]:
        written = await self.store.fail(failures)
        if not self.store.moves_messages:
            for failure, answer in zip(failures, written, strict=True):
                await self._put_back(failure.claim, answer, delay=failure.delay, counted=failure.crashed)
        return written

    async def _release(self, releases: Sequence[Release]) -> Sequence[Written]:
        written: dict[int, Written] = {}
        for delay in dict.fromkeys(release.delay for release in releases):
            places = [at for at, release in enumerate(releases) if release.delay == delay]
            claims = [releases[at].claim for at in places]
            answers = await self.store.release(claims, delay=delay)
            written.update(zip(places, answers, strict=True))
            if not self.store.moves_messages:
                given = await given_back(self.transport, [claim.delivery for claim in claims], delay=delay)
                for claim, answer, is_held in zip(claims, answers, given, strict=True):
                    if not is_held and answer is not Written.STALE:
                        await self._publish_again(claim, delay=delay)
        return [written[at] for at in range(len(releases))]

    async def _put_back(self, claim: Claim, answer: Written, *, delay: float, counted: bool) -> None:
        """Give the message of a requeued row back. One that the broker lost is published anew: its row waits for it."""
        if not await self._give_back(claim.delivery, delay=delay, counted=counted) and answer is not Written.STALE:
            await self._publish_again(claim, delay=delay)

    async def _publish_again(self, claim: Claim, *, delay: float) -> None:
        was, again = claim.delivery, f"{claim.task_id}:{claim.token}"
        await self.transport.publish([Outgoing(was.topic, was.body, again, was.headers, not_before=delay or None)])

    def _request(self, delivery: Delivery, message: TaskMessage) -> GrantRequest:
        mark = delivery.headers.get(_MARK, "") if self._seal is None else ""
        return GrantRequest(delivery, message.task_id, message.agent, message.reply_to, mark)

    # -- what is no envelope ----------------------------------------------------------------------

    def _opened(self, delivery: Delivery) -> TaskMessage:
        check_size(delivery.body)
        if self._seal is not None:
            self._seal.check(TASK, delivery.topic, delivery.body, delivery.headers.get(HEADER))
        message = decode_task(delivery.body)
        agent = self.topics.agent_of(delivery.topic)
        if message.agent != agent:
            raise BadEnvelope(problem=f"it is addressed to {message.agent!r} but came on the topic of {agent!r}")
        if message.reply_to is not None and not self.topics.is_inbox(message.reply_to):
            raise BadEnvelope(problem=f"its reply_to {message.reply_to!r} is no inbox of this namespace")
        try:
            check_task_id(message.task_id)
        except BadTaskId as error:
            raise BadEnvelope(problem=str(error)) from None
        return message

    def _first(self, task: NewTask, mark: str) -> Outgoing:
        headers = {**task.headers, _MARK: mark} if mark and self._seal is None else task.headers  # unsigned words
        return Outgoing(task.topic, task.body, task.task_id, headers)

    def _signed(self, task: NewTask, seal: Seal) -> NewTask:
        return replace(task, headers={**task.headers, HEADER: seal.signature(TASK, task.topic, task.body)})

    async def _quarantine(self, delivery: Delivery, error: BadEnvelope) -> None:
        """Move bytes nobody can run to the dead letters, as they were, and go on."""
        agent = self.topics.agent_of(delivery.topic)
        logger.warning("{}: a message on {} was dead-lettered: {}", error.code, delivery.topic, error)
        letter = encode(
            letter_of(delivery.body, agent=agent, reason=str(error), now=time.time(), deliveries=delivery.deliveries)
        )
        await self._keep_quarantined(agent, delivery, letter)

        async def settle() -> Sequence[Settled]:
            return [await self.transport.dead(delivery, letter)]

        await known(settle)

    async def _keep_quarantined(self, agent: str, delivery: Delivery, letter: bytes) -> None:
        if not self.store.moves_messages:  # a store of its own cannot see the transport's dead letters
            await self.store.put(f"{_QUARANTINE}{agent}:{digest(delivery.body)}", letter)

    async def _give_back(self, delivery: Delivery, *, delay: float = 0.0, counted: bool = False) -> bool:
        """Give a message back; whether it was ours to give."""
        return await known(lambda: self.transport.release([delivery], delay=delay, counted=counted))


def _sealed(ending: Ending, seal: Seal) -> Ending:
    if isinstance(ending, Completion | Burial):
        return replace(ending, result=seal.sealed(ending.result))
    return ending


def _result(delivery: Delivery, reply_to: str, result: bytes, task_id: str) -> Outgoing:
    # Who made a row with the task asks that, if he misses the bell. A stranger may read nothing but his inbox.
    return Outgoing(reply_to, result, f"{task_id}:result", is_bell=_MARK in delivery.headers)
