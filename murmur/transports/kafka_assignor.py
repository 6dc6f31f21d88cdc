"""Who reads which partition: those that have room, each about the same number, and as few moves as can be.

The group's leader decides it from what every member says when it joins: what it reads now, and
whether it waits for work. A full member gets none where others have room: what waits is theirs. What it
runs stays its own all the same (`kafka_member`). With its share each member is told who else is there,
so that it can free what was held by somebody who is not.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from typing import Final

import msgspec
from aiokafka.cluster import ClusterMetadata
from aiokafka.coordinator.assignors.abstract import AbstractPartitionAssignor
from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment, ConsumerProtocolMemberMetadata
from msgspec import Struct

NAME: Final = "murmur-1"  # members of another version of what is said here do not share a group with us


class Wish(Struct, frozen=True, array_like=True):
    """What a member says when it joins."""

    has_room: bool
    reads: list[int]


def identity(member_id: str) -> bytes:
    """Return what stands for a member in ledgers. It is another one after the group has given the member up."""
    return hashlib.blake2b(member_id.encode(), digest_size=4).digest()


def shares(partitions: Iterable[int], wishes: Mapping[str, Wish]) -> dict[str, list[int]]:
    """Return the partitions of each member. Pure, and the same wherever it is asked."""
    free, got = sorted(partitions), {member: list[int]() for member in sorted(wishes)}
    readers = [member for member in got if wishes[member].has_room] or list(got)
    most, rest = divmod(len(free), len(readers))
    for member in readers:
        for one in sorted(wishes[member].reads):
            if one in free and len(got[member]) < most + (rest > 0):
                rest -= len(got[member]) == most
                got[member].append(one)
                free.remove(one)
    for one in free:
        min((got[member] for member in readers), key=len).append(one)
    return got


class Assignor(AbstractPartitionAssignor):  # type: ignore[misc]  # aiokafka is not typed
    """`shares` as the client library calls it. One object for each member, not one class for all."""

    name = NAME

    def __init__(self, wish: Callable[[], Wish]) -> None:
        self._wish = wish
        self.members: frozenset[bytes] = frozenset()  # identities of all that joined last

    def metadata(self, topics: Iterable[str]) -> ConsumerProtocolMemberMetadata:
        """Return what we say when we join."""
        return ConsumerProtocolMemberMetadata(0, list(topics), msgspec.msgpack.encode(self._wish()))

    def assign(
        self, cluster: ClusterMetadata, members: Mapping[str, ConsumerProtocolMemberMetadata]
    ) -> dict[str, ConsumerProtocolMemberAssignment]:
        """Decide, as the leader."""
        wishes = {member: msgspec.msgpack.decode(one.user_data, type=Wish) for member, one in members.items()}
        topics = {topic for one in members.values() for topic in one.subscription}
        everybody = msgspec.msgpack.encode(sorted(map(identity, members)))
        parts: dict[str, list[tuple[str, list[int]]]] = {member: [] for member in members}
        for topic in sorted(topics):
            for member, partitions in shares(cluster.partitions_for_topic(topic) or (), wishes).items():
                parts[member].append((topic, partitions))
        return {member: ConsumerProtocolMemberAssignment(0, parts[member], everybody) for member in members}

    def on_assignment(self, assignment: ConsumerProtocolMemberAssignment) -> None:
        """Hear what was decided."""
        self.members = frozenset(msgspec.msgpack.decode(assignment.user_data, type=list[bytes]))
