"""What murmur costs over a broker beside the raw loop: throughput, CPU, latency, waiting, memory kept.

Rounds are interleaved: raw, murmur, raw, murmur. Each starts its own server, worker and
publisher, and is warmed up before anything counts.
"""

import importlib
from collections.abc import Callable, Sequence

from benchmarks.bodies import WAIT
from benchmarks.clocks import resident_bytes
from benchmarks.plan import Plan
from benchmarks.session import OWN_STORE, Session, session
from benchmarks.side import IN_FLIGHT
from benchmarks.table import Row, Target

MICRO = 1e6
MILLI = 1e3


def raw_throughput(plan: Plan) -> float:
    """Return the tasks per second of one raw round."""
    with session("raw", "echo", warm_up=plan.warm_up, broker=plan.broker) as running:
        return plan.fan_out / _fan_out_seconds(running, plan)


def fan_out(plan: Plan) -> list[Row]:
    """Many no-op tasks at once: tasks per second, and the CPU time of a task in each process."""

    def one(running: Session) -> tuple[float, ...]:
        before = running.cpu()
        seconds = _fan_out_seconds(running, plan)
        used = running.cpu().since(before)
        parts = [part / plan.fan_out * MICRO for part in (used.publisher, used.worker, used.server)]
        return (plan.fan_out / seconds, sum(parts), *parts)

    rate, total, publisher, worker, server = _interleaved(one, "echo", plan, rounds=plan.rounds)
    least = Target(0.6, "at least", stretch=1.0) if plan.broker == "redis" else None
    most = Target(1.5, "at most", stretch=0.8) if plan.broker == "redis" else None
    return [
        Row("fan-out throughput", "tasks/s", *rate, least, higher_is_better=True),
        Row("CPU per task, all", "µs", *total, most),
        Row("  publisher", "µs", *publisher),
        Row("  worker", "µs", *worker),
        Row(f"  {importlib.import_module(f'benchmarks.brokers.{plan.broker}').SERVER}", "µs", *server),
    ]


def latency(plan: Plan) -> list[Row]:
    """No-op tasks one at a time: from call to result."""

    def one(running: Session) -> tuple[float, ...]:
        seconds = sorted(running.publisher.ask("one_by_one", plan.latency)["seconds"])
        return tuple(seconds[int(len(seconds) * part)] * MILLI for part in (0.5, 0.95, 0.99))

    p50, p95, p99 = _interleaved(one, "echo", plan, rounds=plan.rounds)
    return [
        Row("latency p50, one at a time", "ms", *p50, Target(1.0, "at most")),
        Row("latency p95", "ms", *p95),
        Row("latency p99", "ms", *p99, Target(1.5, "at most")),
    ]


def waiting(plan: Plan) -> list[Row]:
    """Tasks that wait 50 ms, 200 at once: time taken as a multiple of the ideal."""
    ideal = plan.waiting * WAIT / IN_FLIGHT

    def one(running: Session) -> tuple[float, ...]:
        return (running.publisher.ask("fan_out", plan.waiting)["seconds"] / ideal,)

    (multiple,) = _interleaved(one, "wait", plan, rounds=plan.rounds, warm_up=IN_FLIGHT * 2)
    return [Row(f"{plan.waiting:,} x 50 ms at {IN_FLIGHT}", "x ideal", *multiple, Target(1.15, "at most", of="murmur"))]


def memory(plan: Plan) -> list[Row]:
    """Resident memory that each process kept per finished task."""

    def one(running: Session) -> tuple[float, ...]:
        pids = (running.publisher.pid, running.worker.pid)
        running.publisher.ask("in_chunks", plan.memory // 5)
        before, stored = [resident_bytes(pid) for pid in pids], running.server.used_bytes()
        running.publisher.ask("in_chunks", plan.memory)
        grown = [resident_bytes(pid) - was for pid, was in zip(pids, before, strict=True)]
        return tuple(growth / plan.memory for growth in (*grown, running.server.used_bytes() - stored))

    publisher, worker, server = _interleaved(one, "echo", plan, rounds=1)
    nothing = Target(NOISE_BYTES, "at most", of="murmur")
    return [
        Row("kept per task, publisher", "bytes", publisher[0], target=nothing),
        Row("kept per task, worker", "bytes", worker[0], target=nothing),
        Row("kept per task, redis-server", "bytes", server[0]),
    ]


NOISE_BYTES = 16.0  # per task: what an allocator that keeps nothing may still grow by, 1.6 MB in 100,000 tasks


def _fan_out_seconds(running: Session, plan: Plan) -> float:
    seconds: float = running.publisher.ask("fan_out", plan.fan_out)["seconds"]
    return seconds


_Values = tuple[Sequence[float], Sequence[float]]


def _interleaved(
    one: Callable[[Session], tuple[float, ...]], agent: str, plan: Plan, *, rounds: int, warm_up: int | None = None
) -> list[_Values]:
    """Return for each value that `one` returns what murmur and raw had in every round."""
    stores = {"raw": OWN_STORE, "fleet": plan.store}
    found: dict[str, list[tuple[float, ...]]] = {"raw": [], "fleet": []}
    for _ in range(rounds):
        for system, values in found.items():
            with session(
                system, agent, warm_up=warm_up or plan.warm_up, broker=plan.broker, store=stores[system]
            ) as running:
                values.append(one(running))
    return list(zip(zip(*found["fleet"], strict=True), zip(*found["raw"], strict=True), strict=True))
