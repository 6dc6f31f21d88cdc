"""A program that keeps a tree of busy process children until it is killed; prints the pids of all of them."""

import json
import sys

import anyio

from supervisors import open_supervisor
from tests.supervisors import process_children as children
from tests.supervisors.processes import descendants, process, tree


async def main() -> None:
    """Two hog the interpreter lock, one idles; each has three tools, one of them with a session of its own."""
    busy = [process(children.with_tools, f"c{i}", args=(i > 0,)) for i in range(3)]
    async with open_supervisor(tree(*busy)):
        json.dump(sorted(descendants()), sys.stdout)
        print(flush=True)
        await anyio.sleep_forever()


anyio.run(main)
