"""What docs/wire.md and the shipped schemas say is what murmur writes and reads."""

import json
from typing import Any

import jsonschema
import msgspec
import pytest
from msgspec import Raw

from murmur.beats import Answer, Beat, Branch, Command
from murmur.envelope import DeadLetter, ErrorNote, ResultMessage, TaskMessage, encode
from tests.docs.snippets import ROOT
from tools.schemas import ENVELOPES, FOLDER, text_of

WIRE = ROOT / "docs" / "wire.md"


@pytest.mark.parametrize("name", ENVELOPES)
def test_the_shipped_schemas_are_those_of_the_code(name: str) -> None:
    assert (FOLDER / f"{name}.json").read_text(encoding="utf-8") == text_of(name), "write them: python -m tools.schemas"


@pytest.mark.parametrize(
    ("name", "envelope"),
    [
        ("task", TaskMessage(v=1, task_id="a", agent="b", input=Raw(b'{"x":[1]}'), headers={"a": "b"}, timeout=1.5)),
        ("result", ResultMessage(v=1, task_id="a", agent="b", success=True, output=Raw(b"3"), finished_at=1.0)),
        (
            "dead_letter",
            DeadLetter(
                reason="r",
                dead_at=1.0,
                agent="a",
                task=Raw(b"{}"),
                errors=[ErrorNote(attempt=1, error_type="E", message="m", at=1.0)],
            ),
        ),
        (
            "beat",
            Beat(
                v=1,
                worker_id="w",
                incarnation="i",
                host="h",
                pid=1,
                state="serving",
                at=1.0,
                started_at=1.0,
                every=2.0,
                tree=(Branch(id="pool", state="up", children=(Branch(id="process-1", state="up", pid=2),)),),
            ),
        ),
        ("command", Command(v=1, command_id="c", worker_id="w", incarnation="i", verb="drain", within=1.5)),
        ("answer", Answer(v=1, command_id="c", worker_id="w", error_type="BadSignature", error_message="m")),
    ],
)
def test_what_is_written_fits_its_schema(name: str, envelope: msgspec.Struct) -> None:
    schema: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    jsonschema.validate(json.loads(encode(envelope)), schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"v": "1"}, schema)


@pytest.mark.parametrize("name", ENVELOPES)
def test_every_field_is_described(name: str) -> None:
    text = WIRE.read_text(encoding="utf-8")
    undescribed = [one.name for one in msgspec.structs.fields(ENVELOPES[name]) if f"`{one.name}`" not in text]
    assert not undescribed
