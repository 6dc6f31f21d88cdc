"""A script whose children are defined in itself, as in a notebook: run as `__main__`."""

import os
import sys

import anyio

from supervisors import ChildContext, ChildSpec, Isolation, StartFailed, SupervisorSpec, open_supervisor


class Registered:
    """Knows its subclasses; dill cannot rebuild those elsewhere."""

    known: dict[str, type] = {}  # noqa: RUF012  shared is the point

    def __init_subclass__(cls) -> None:
        if cls.__module__ != "__main__" or os.getpid() != cls.home():
            raise RuntimeError("made far from home")
        Registered.known[cls.__name__] = cls

    @staticmethod
    def home() -> int:
        """The process of the script."""
        return HOME


HOME = os.getpid()


class Part(Registered):
    """One that is known."""


def helper() -> int:
    """What the child leans on."""
    return os.getpid()


async def plain(ctx: ChildContext) -> None:
    """Crosses by value."""
    ctx.ready(helper())
    await anyio.sleep_forever()


async def with_class(ctx: ChildContext) -> None:
    """Cannot cross: its class registers itself where it is made."""
    ctx.ready(Part.__name__)
    await anyio.sleep_forever()


async def main() -> None:
    """Start one of them and tell."""
    children: dict[str, tuple[object, tuple[type, ...]]] = {
        "plain": (plain, ()),
        "with_class": (with_class, ()),
        "with_argument": ("tests.supervisors.process_children:wait", (Part,)),
    }
    start, args = children[sys.argv[1]]
    try:
        spec = SupervisorSpec(children=(ChildSpec(id="a", start=start, args=args, isolation=Isolation.PROCESS),))
        async with open_supervisor(spec) as sup:
            print("started", sup.which_children()[0].info != HOME)
    except StartFailed as failure:
        print(failure)


if __name__ == "__main__":
    anyio.run(main)
