"""`python -m tests.chaos.publisher URL BATCH TASKS HISTORY`: gathers a named batch and notes each answer. Killed, it is
started again and goes on with the batch."""

import asyncio
import sys

from murmur import AgentRuntime
from tests.chaos.agents import Storm
from tests.chaos.history import note


async def main(url: str, batch: str, tasks: int, history: str) -> None:
    async with AgentRuntime(broker=url, no_workers_after=600.0) as runtime:
        note(history, "gather", batch=batch)
        results = await runtime.gather(Storm, range(tasks), batch_id=batch, max_concurrency=200)
    for number, result in enumerate(results):
        error = None if result.error is None else getattr(result.error, "error_type", type(result.error).__name__)
        note(history, "answer", task=result.task_id, number=number, output=result.output, error=error)
    note(history, "answered", batch=batch, count=len(results))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]))
