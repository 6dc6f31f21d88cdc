"""Write the tables of docs/reference/brokers.md from what the code itself declares of each broker.

python -m tools.brokers

Its sources: `CAPS` and `KEPT` of each adapter, the schemes of `murmur.wiring`, what
`murmur.stores.broker_only` says that a broker alone cannot hold.
"""

import importlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from attrs import frozen

from murmur import wiring
from murmur.stores import broker_only
from murmur.transport import Caps, Kept

PAGE: Final = Path(__file__).parents[1] / "docs" / "reference" / "brokers.md"
_TITLES: Final = {"memory": "in process", "redis": "Redis", "nats": "NATS", "kafka": "Kafka", "rabbitmq": "RabbitMQ"}
_LEASES: Final = {
    "time": "a time, renewed by a thread every third of it",
    "membership": "the membership in a group, kept by the event loop's heartbeats",
    "connection": "the connection, kept by the event loop's heartbeats",
}


@frozen
class Broker:
    """One broker as the code declares it."""

    title: str
    schemes: tuple[str, ...]
    extra: str
    keeps_rows: bool
    caps: Caps
    kept: Kept


def brokers() -> list[Broker]:
    """Return all brokers that a URL can name, the one in process first."""
    schemes: dict[str, list[str]] = {}
    for scheme, (module, _) in wiring._TRANSPORTS.items():
        schemes.setdefault(module, []).append(scheme)
    found = []
    for module, its_schemes in schemes.items():
        adapter = importlib.import_module(module)
        title = _TITLES[module.rpartition(".")[2]]
        keeps_rows = its_schemes[0] in wiring._STORES
        extra = wiring._TRANSPORTS[its_schemes[0]][1]
        found.append(Broker(title, tuple(its_schemes), extra, keeps_rows, adapter.CAPS, adapter.KEPT))
    return found


def capabilities() -> str:
    """Return what each broker can do, a row a question."""
    every = brokers()
    rows = [
        ("URL", [", ".join(f"`{scheme}://`" for scheme in one.schemes) for one in every]),
        ("client", [f'`"murmur-runtime[{one.extra}]"`' if one.extra else "none" for one in every]),
        ("rows, without `store=`", ["there: tier A" if one.keeps_rows else "none: tier B" for one in every]),
        ("the lease of a worker is", [_LEASES[one.caps.lease] for one in every]),
        ("the same id sent twice is one message", [_said(one.caps.dedup) for one in every]),
        ("delayed messages", [_said(one.caps.delay) for one in every]),
        ("refuses a settle that comes too late", [_said(one.caps.fencing) for one in every]),
        ("result and settle are one step", [_said(one.caps.atomic_emit) for one in every]),
        ("a burst is shared evenly by its workers", [_said(one.caps.fair) for one in every]),
        ("a restarted worker takes its own tasks over at once", [_said(one.caps.stable_identity) for one in every]),
        ("deliveries are counted exactly", [_said(one.caps.exact_count) for one in every]),
        ("largest body, bytes", [f"{one.caps.max_body:,}" if one.caps.max_body else "any" for one in every]),
        ("outlives this process", [_said(one.caps.durable) for one in every]),
    ]
    return _table(["", *(one.title for one in every)], [[question, *answers] for question, answers in rows])


def durability() -> str:
    """Return what each broker has kept after which accident."""
    rows = [
        [one.title, one.kept.when_killed, one.kept.when_power_fails, "; ".join(one.kept.demands)] for one in brokers()
    ]
    return _table(["broker", "lost when the server is killed", "lost when the power fails", "to set"], rows)


def lacking() -> str:
    """Return which invariant which broker does not hold by itself, and what is in its place."""
    told: dict[str, list[tuple[str, str]]] = {}
    for one in brokers():
        for number, what in _lacks(one.caps):
            told.setdefault(f"{number} {what}", []).append((one.title, number))
    rows = [
        [number, ", ".join(title for title, _ in found), key.partition(" ")[2]]
        for key, found in told.items()
        for number in [found[0][1]]
    ]
    alone = ", ".join(one.title for one in brokers() if not one.keeps_rows)
    rows += [
        [one.invariant, f"{alone} without `store=`", one.what.removeprefix("no store: ")]
        for one in broker_only.findings()
    ]
    return _table(["", "on", "what is there instead"], sorted(rows, key=lambda row: int(row[0][1:])))


def page(text: str) -> str:
    """Return the page with its tables as they are to be: each between its two markers."""
    for name, table in (("capabilities", capabilities()), ("durability", durability()), ("lacking", lacking())):
        begin, end = f"<!-- {name}: python -m tools.brokers -->", f"<!-- end of {name} -->"
        text, count = re.subn(
            f"{re.escape(begin)}.*?{re.escape(end)}", f"{begin}\n\n{table}\n{end}", text, flags=re.DOTALL
        )
        if count != 1:
            raise ValueError(f"{PAGE.name} must have one {begin!r} and, behind it, one {end!r}; found {count}")
    return text


def _lacks(caps: Caps) -> Iterator[tuple[str, str]]:
    if not caps.durable:
        yield "I1", "everything ends with the process"
    if not caps.atomic_emit:
        yield (
            "I2",
            "a crash between a result and its settle has the result sent again: the stored one, where rows are kept",
        )
    if not caps.fencing:
        yield "I5", "a worker stops trusting its lease by its own clock, and the row refuses what is written late"
    if not caps.dedup:
        yield "I8", "a message that was sent twice is there twice; its row lets one of them run"
    if not caps.stable_identity and caps.lease != "connection":
        yield "I10", "a worker restarted under its name waits for the lease of the old one, as others do"
    if caps.lease != "time":
        yield (
            "I11",
            (
                f"a lease is {_LEASES[caps.lease]}: who blocks the loop for longer loses its tasks. "
                "`processes=N` keeps actors out of it"
            ),
        )


def _said(holds: bool) -> str:
    return "yes" if holds else "**no**"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
