"""docs/explanation/guarantees.md: every invariant is there, and every test that it names as a proof exists."""

import re

import pytest

from tests.docs.snippets import ROOT

TEXT = (ROOT / "docs" / "explanation" / "guarantees.md").read_text(encoding="utf-8")
ROWS = {found[1]: found[0] for found in re.finditer(r"^\| (I\d+) \|.*$", TEXT, re.MULTILINE)}


def test_every_invariant_is_told() -> None:
    assert list(ROWS) == [f"I{number}" for number in range(1, 25)]


@pytest.mark.parametrize("number", ROWS)
def test_an_invariant_names_its_proof_or_says_that_there_is_none(number: str) -> None:
    proof = ROWS[number].rstrip(" |").rpartition(" | ")[2]
    assert re.search(r"`test_\w+`", proof) or proof in ("none", "not yet proven by a test of its own")


def test_every_proof_exists() -> None:
    defined = set[str]()
    for path in (ROOT / "tests").rglob("*.py"):
        defined.update(re.findall(r"^\s*(?:async )?def (test_\w+)", path.read_text(encoding="utf-8"), re.MULTILINE))
    assert sorted(set(re.findall(r"`(test_\w+)`", TEXT)) - defined) == []
