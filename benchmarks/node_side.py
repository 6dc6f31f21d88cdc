"""`python -m benchmarks.node_side URL SETTINGS`: a node on uvloop, with `Worker`'s settings as JSON, until SIGTERM."""

import json
import sys

import uvloop

from benchmarks import node_agents
from murmur.worker import Worker

_AGENTS = (node_agents.Noop, node_agents.Burn, node_agents.Hold, node_agents.Risky)


async def main(url: str, settings: dict[str, object]) -> None:
    """Serve until told to end."""
    await Worker(broker=url, agents=_AGENTS, **settings).run()  # type: ignore[arg-type]


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], json.loads(sys.argv[2])))
