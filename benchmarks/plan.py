"""How much is measured."""

from attrs import frozen


@frozen
class Plan:
    """Sizes of the runs: tasks, unless named otherwise."""

    broker: str = "redis"
    store: str = ""  # see `session`
    rounds: int = 5
    warm_up: int = 4_000
    fan_out: int = 20_000
    latency: int = 2_000
    waiting: int = 2_000
    memory: int = 100_000
    idle_seconds: float = 15.0
    actors: int = 300_000
    asks: int = 200_000
    lease: int = 200
    kills: int = 300
    restarts: int = 20_000
    node_kills: int = 200
    burn: int = 600
    poison: int = 2_000
    deaths: int = 1_000

    @classmethod
    def quick(cls, rounds: int, *, broker: str = "redis", store: str = "") -> "Plan":
        """Return a plan that takes seconds; its figures are rough."""
        return cls(
            broker=broker,
            store=store,
            rounds=rounds,
            warm_up=1_000,
            fan_out=4_000,
            latency=300,
            waiting=1_000,
            memory=20_000,
            idle_seconds=3.0,
            kills=30,
            restarts=2_000,
            node_kills=6,
            burn=100,
            poison=400,
            deaths=20,
        )
