"""All brokers side by side: what a task costs murmur there, beside a loop on the same broker's own client.

A broker without a place for rows is measured twice: with a Redis beside it for them, whose CPU time counts, and
alone, with what that cannot promise. Rounds are interleaved as everywhere: raw, then each way of murmur's.
"""

from typing import Final

from attrs import frozen

from benchmarks.plan import Plan
from benchmarks.session import OWN_STORE, Session, session
from benchmarks.table import Row, Target

_MICRO: Final = 1e6
_TASKS: Final = 20  # that wait a second each, in as many slots
_LONGEST: Final = 1.5  # seconds for all of them


@frozen
class _Way:
    """One way of murmur's over a broker: how it is named, where its rows lie, the least share of the raw throughput."""

    name: str
    store: str
    least: float


WAYS: Final = {
    "redis": (_Way("redis", OWN_STORE, 0.6),),
    "nats": (_Way("nats", OWN_STORE, 0.6),),
    "rabbitmq": (_Way("rabbitmq, rows in redis", "redis", 0.9), _Way("rabbitmq alone", "none", 0.9)),
    "kafka": (_Way("kafka, rows in redis", "redis", 0.3), _Way("kafka alone", "none", 0.3)),
}
ALL: Final = "all"
_MOST_CPU: Final = 2.0  # by the raw loop's


def brokers(plan: Plan) -> list[Row]:
    """Each broker's fan-out and CPU time per task beside its raw loop; 20 tasks of 1 s in 20 slots of one worker."""
    return [
        row for broker, ways in WAYS.items() if plan.broker in (broker, ALL) for row in _measured(broker, ways, plan)
    ]


def _measured(broker: str, ways: tuple[_Way, ...], plan: Plan) -> list[Row]:
    raw: list[tuple[float, float]] = []
    found: dict[_Way, list[tuple[float, float]]] = {way: [] for way in ways}
    for _ in range(plan.rounds):
        with session("raw", "echo", warm_up=plan.warm_up, broker=broker) as running:
            raw.append(_fan_out(running, plan))
        for way, values in found.items():
            with session("fleet", "echo", warm_up=plan.warm_up, broker=broker, store=way.store) as running:
                values.append(_fan_out(running, plan))
    rows = []
    for way, values in found.items():
        rates, costs = zip(*values, strict=True)
        raw_rates, raw_costs = zip(*raw, strict=True)
        with session("fleet", "second", warm_up=_TASKS, broker=broker, store=way.store) as running:
            seconds = [running.publisher.ask("fan_out", _TASKS)["seconds"] for _ in range(plan.rounds)]
        least, most = Target(way.least, "at least"), Target(_MOST_CPU, "at most")
        rows += [
            Row(f"{way.name}: fan-out", "tasks/s", rates, raw_rates, least, higher_is_better=True),
            Row("  CPU per task, all", "µs", costs, raw_costs, most),
            Row(f"  {_TASKS} x 1 s, {_TASKS} slots", "s", seconds, target=Target(_LONGEST, "at most", of="murmur")),
        ]
    return rows


def _fan_out(running: Session, plan: Plan) -> tuple[float, float]:
    """Return tasks per second, and the CPU time of one in µs."""
    before = running.cpu()
    seconds = running.publisher.ask("fan_out", plan.fan_out)["seconds"]
    used = running.cpu().since(before)
    return plan.fan_out / seconds, (used.publisher + used.worker + used.server) / plan.fan_out * _MICRO
