"""The child of `ChildMember`: one consumer, told by lines of JSON on stdin, answering on stdout."""

import asyncio
import importlib
import json
import sys

import attrs

from murmur.transport import TopicSpec
from tests.contracts.member import LocalMember


async def main(settings: dict) -> None:  # type: ignore[type-arg]  # JSON
    module, _, name = settings["target"].partition(":")
    specs = [TopicSpec(one["name"], lease=one["lease"], dead_topic=one["dead_topic"]) for one in settings["topics"]]
    transport = getattr(importlib.import_module(module), name)(
        settings["url"], consumer_id=settings["consumer_id"], namespace=settings["namespace"], lease=specs[0].lease
    )
    await transport.open(specs)
    member = LocalMember(transport)
    answer(None)
    commands = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    async for line in commands:
        command = json.loads(line)
        answer(await getattr(member, command["verb"])(**command["arguments"]))
        if command["verb"] == "close":
            return


def answer(value: object) -> None:
    print(json.dumps({"answer": value}, default=attrs.asdict), flush=True)


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
