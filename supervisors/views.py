"""What a supervisor answers when it is asked about its children: values that do not change any more."""

from attrs import frozen

from supervisors.slot import Slot, State
from supervisors.spec import ChildType


@frozen
class ChildRef:
    """A child that was started: its id, which incarnation, and what it said when it was ready."""

    id: str
    incarnation: int
    info: object = None


@frozen(kw_only=True)
class ChildInfo:
    """One child, as `which_children` shows it. `children` are those of a supervisor below that is up."""

    id: str
    state: State
    type: ChildType
    incarnation: int
    info: object
    restarts: int  # attempts since the child was added
    up_since: float | None  # clock seconds; None while it is not up
    cause: str  # why it ended last, or could not start; empty if it never did
    children: "tuple[ChildInfo, ...] | None"


@frozen(kw_only=True)
class ChildCounts:
    """What `count_children` answers: specs known, children running, and of all how many are of which type."""

    specs: int
    active: int
    supervisors: int
    workers: int


@frozen
class Snapshot:
    """Children and counts between two decisions."""

    children: tuple[ChildInfo, ...]
    counts: ChildCounts


def info_of(slot: Slot, below: "tuple[ChildInfo, ...] | None") -> ChildInfo:
    """Show a slot, with the children of the supervisor that it is, if it is one."""
    return ChildInfo(
        id=slot.key,
        state=slot.state,
        type=slot.spec.type,
        incarnation=slot.incarnation,
        info=slot.info,
        restarts=slot.restarts,
        up_since=slot.up_since if slot.state is State.UP else None,
        cause="" if slot.cause is None else str(slot.cause),
        children=below,
    )


def counts_of(slots: list[Slot], *, is_simple: bool) -> ChildCounts:
    """Count. A child between two attempts is in `specs` and in its type, not in `active`."""
    supervisors = sum(slot.spec.type is ChildType.SUPERVISOR for slot in slots)
    return ChildCounts(
        specs=1 if is_simple else len(slots),
        active=sum(slot.is_alive for slot in slots),
        supervisors=supervisors,
        workers=len(slots) - supervisors,
    )
