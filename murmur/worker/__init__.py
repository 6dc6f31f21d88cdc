"""Workers: they take tasks off the broker, keep actors alive, and hand results back."""

from murmur.worker.node import SupervisorNode
from murmur.worker.worker import Worker

__all__ = ["SupervisorNode", "Worker"]
