"""Redis: the yardstick of `benchmarks.raw` on a server without persistence."""

from benchmarks.raw import publishing, working
from benchmarks.redis_server import redis_server as server

SERVER = "redis-server"

__all__ = ["SERVER", "publishing", "server", "working"]
