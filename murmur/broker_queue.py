"""The delivery protocol where no coordination store stands beside the broker: a task is its message, and nothing else.

Counters travel in the headers of the message that is sent again (`murmur.tally`), results only to the publisher's
inbox, dead letters lie on the broker. What this cannot hold stands in docs/explanation/guarantees.md.
"""

from collections.abc import Sequence

from murmur import tally
from murmur.envelope import decode_letter
from murmur.errors import BadEnvelope, OutcomeUnknown
from murmur.limits import LETTERS_READ
from murmur.settling import known
from murmur.store import Burial, Claim, Failure, Written
from murmur.task_queue import GROUP, TaskQueue
from murmur.transport import Delivery, Outgoing, Refusal, Settled, TopicSpec

_NO_MORE = 1.0  # seconds without a dead letter after which there are no more


class BrokerQueue(TaskQueue):
    """A task queue over a transport and a store that keeps no rows."""

    async def dead_letters(self, agent: str, *, limit: int = 100) -> Sequence[bytes]:
        """Return the newest dead letters, newest first, of those that one look into their topic takes."""
        held = await self._letters_held(agent)
        await self._put_back_letters(held)
        return sorted((one.body for one in held), key=_died_at, reverse=True)[:limit]

    async def forget_letters(self, agent: str, letters: Sequence[bytes]) -> int:
        """Forget dead letters, given as `dead_letters` returned them; return how many there were."""
        gone = set(letters)
        held = await self._letters_held(agent)
        over = [one for one in held if one.body in gone]
        await self._put_back_letters([one for one in held if one.body not in gone])
        if over:
            await known(lambda: self.transport.ack(over))
        return len(over)

    async def _fail(self, failures: Sequence[Failure]) -> Sequence[Written]:
        """Send the message again with its counters; the one that was delivered is settled with it, or after it."""
        written = []
        for failure in failures:
            claim, old = failure.claim, failure.claim.delivery
            name = f"{claim.task_id}:{claim.token}"
            new = Outgoing(old.topic, old.body, name, tally.headers_after(failure), not_before=failure.delay or None)
            is_ours = await known(lambda old=old, new=new: self.transport.ack([old], emit=[new]))  # type: ignore[misc]
            written.append(Written.STORED if is_ours else Written.STALE)
        return written

    async def _bury(self, burials: Sequence[Burial]) -> Sequence[Written]:
        """Answer, then bury: who dies in between answers twice, and nobody waits for ever."""
        results = [
            Outgoing(one.claim.reply_to, one.result, f"{one.claim.task_id}:result")
            for one in burials
            if one.claim.reply_to is not None
        ]
        for receipt in await self.transport.publish(results) if results else ():
            if isinstance(receipt, Refusal) and not receipt.definite:  # definite: nobody waits for it any more
                raise OutcomeUnknown(call="publishing a result", problem=receipt.problem)
        written = []
        for burial in burials:

            async def settle(burial: Burial = burial) -> Sequence[Settled]:
                return [await self.transport.dead(burial.claim.delivery, burial.letter)]

            written.append(Written.STORED if await known(settle) else Written.STALE)
        return written

    async def _publish_again(self, claim: Claim, *, delay: float) -> None:
        """Publish nothing: who has lost the message leaves the task to whoever has it now."""

    async def _keep_quarantined(self, agent: str, delivery: Delivery, letter: bytes) -> None:
        """The broker's dead letters are the only ones."""

    # -- dead letters -----------------------------------------------------------------------------

    async def _letters_held(self, agent: str) -> list[Delivery]:
        topic = self.topics.dead(agent)
        await self.transport.open([TopicSpec(name=topic, lease=self._lease)])
        held: list[Delivery] = []
        while len(held) < LETTERS_READ:
            room = LETTERS_READ - len(held)
            found = await self.transport.receive(GROUP, {topic: room}, credit=room, wait=_NO_MORE)
            if not found:
                break
            held += found
        return held

    async def _put_back_letters(self, held: Sequence[Delivery]) -> None:
        if held:  # the last first: each goes before those that wait
            await known(lambda: self.transport.release(held[::-1]))


def _died_at(letter: bytes) -> float:
    try:
        return decode_letter(letter).dead_at
    except BadEnvelope:
        return 0.0  # a stranger's
