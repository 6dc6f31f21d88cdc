"""Many copies of one child, and which of them a key belongs to: for what one child alone would be a bottleneck of."""

import hashlib
import os
from collections.abc import Callable

from attrs import evolve, field, frozen

from supervisors.spec import ChildSpec, SupervisorSpec
from supervisors.validation import whole_number


@frozen
class PartitionSupervisor:
    """`count` copies of a child, named "0", "1", …, under one supervisor of their own.

    `child`: the spec all copies share but for their id, or a function of the copy's number that returns its spec.
    `spec` is started like any supervisor: alone, or as `ChildSpec(id="caches", start=partitions.spec)`.
    `count` should be the same wherever keys are routed; default: one copy for each core.
    """

    child: ChildSpec | Callable[[int], ChildSpec]
    count: int = field(factory=lambda: os.cpu_count() or 1, validator=whole_number(1))

    @property
    def spec(self) -> SupervisorSpec:
        """The supervisor of all copies: one_for_one, with the default intensity for each of them."""
        copies = (self.child if isinstance(self.child, ChildSpec) else self.child(n) for n in range(self.count))
        return SupervisorSpec(children=[evolve(copy, id=str(n)) for n, copy in enumerate(copies)])

    def route(self, key: int | str | bytes) -> str:
        """Return the id of the copy that a key belongs to: the same in every process, on every host."""
        if isinstance(key, int):
            return str(abs(key) % self.count)
        data = key.encode() if isinstance(key, str) else key
        return str(int.from_bytes(hashlib.blake2b(data, digest_size=8).digest()) % self.count)
