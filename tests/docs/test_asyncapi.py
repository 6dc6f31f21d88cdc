"""The AsyncAPI document: of the form that the specification demands, no loose ends, true of what is written."""

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest
from attrs import frozen
from faststream.specification.asyncapi.v3_0_0.schema import ApplicationSchema
from msgspec import Raw

from murmur import Actor
from murmur.asyncapi import document
from murmur.envelope import ResultMessage, TaskMessage, encode
from murmur.names import Topics
from murmur.registry import entry_of


@frozen
class Answer:
    """Named as an envelope is."""

    text: str
    sources: list[str]


class Asker(Actor[int | None, list[Answer]]):
    """Ask."""

    async def receive(self, number: int | None) -> list[Answer]:
        return []


class Opaque(Actor[int, Answer | str | dict[str, Answer]]):
    """Return what has no schema."""

    async def receive(self, number: int) -> Answer | str | dict[str, Answer]:
        return ""


DOCUMENTS = [
    document(topics=Topics()),
    document([entry_of(Asker), entry_of(Opaque)], topics=Topics("prod")),
]


@pytest.mark.parametrize("made", DOCUMENTS)
def test_it_is_an_asyncapi_3_document(made: dict[str, Any]) -> None:
    read = ApplicationSchema.model_validate(made)
    assert read.asyncapi == "3.0.0"
    assert set(made) <= {"asyncapi", "info", "defaultContentType", "channels", "operations", "components"}
    for operation in made["operations"].values():
        assert operation["action"] in ("send", "receive")
        channel = found(made, operation["channel"]["$ref"])
        for message in operation["messages"]:
            assert found(made, message["$ref"]) in channel["messages"].values()
    for channel in made["channels"].values():
        assert {part.partition("}")[0] for part in channel["address"].split("{")[1:]} == set(
            channel.get("parameters", ())
        )
    for schema in made["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)


@pytest.mark.parametrize("made", DOCUMENTS)
def test_the_control_plane_tells_what_its_channels_are_called_in_a_database_of_redis(made: dict[str, Any]) -> None:
    told = {name for name, channel in made["channels"].items() if "ends in @N" in channel.get("description", "")}
    assert told == {"beats", "commands", "answers"}


@pytest.mark.parametrize("made", DOCUMENTS)
def test_every_reference_leads_somewhere(made: dict[str, Any]) -> None:
    assert [ref for ref in references(made) if found(made, ref) is None] == []


def test_messages_of_an_agent_have_its_own_input_and_output() -> None:
    made = DOCUMENTS[1]
    assert made["channels"]["asker.tasks"]["address"] == "prod.asker.tasks"
    task = TaskMessage(v=1, task_id="a", agent="asker", input=Raw(b"3"))
    assert fits(made, "asker.task", encode(task))
    task.input = Raw(b'"3"')
    assert not fits(made, "asker.task", encode(task))
    output = Raw(b'[{"text": "a", "sources": []}]')
    result = ResultMessage(v=1, task_id="a", agent="asker", success=True, output=output)
    assert fits(made, "asker.result", encode(result))
    result.output = Raw(b'[{"text": "a", "sources": "b"}]')
    assert not fits(made, "asker.result", encode(result))


def test_the_command_prints_it() -> None:
    command = [sys.executable, "-m", "murmur.cli.main", "asyncapi", "--namespace", "lab"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == document(topics=Topics("lab"))


def found(made: dict[str, Any], ref: str) -> Any:
    place: Any = made
    for step in ref.removeprefix("#/").split("/"):
        place = place.get(step) if isinstance(place, dict) else None
    return place


def references(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        if isinstance(part.get("$ref"), str):
            yield part["$ref"]
        part = list(part.values())
    for one in part if isinstance(part, list) else ():
        yield from references(one)


def fits(made: dict[str, Any], message: str, body: bytes) -> bool:
    schema = {**made["components"]["messages"][message]["payload"], "components": made["components"]}
    return bool(jsonschema.Draft202012Validator(schema).is_valid(json.loads(body)))
