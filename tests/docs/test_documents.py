"""Every document does what it says: its files are written and its commands typed, on a real Redis."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.brokers.redis_server import RedisServer
from tests.docs.snippets import ROOT, Shell, commands, play


@pytest.fixture
def shell(tmp_path: Path, redis_server: RedisServer) -> Iterator[Shell]:
    shell = Shell(
        tmp_path, {"redis://localhost:6379": redis_server.url, "redis-cli": f"redis-cli -p {redis_server.port}"}
    )
    yield shell
    shell.close()


@pytest.mark.parametrize("document", ["README.md", "docs/tutorial.md", "docs/wire.md", "docs/supervision.md"])
def test_a_document_does_what_it_says(document: str, shell: Shell) -> None:
    problems = play(ROOT / document, shell, skipped=("pip install", "make "))
    assert not problems, "\n\n".join(problems)


def test_a_document_that_says_something_else_is_noticed(shell: Shell, tmp_path: Path) -> None:
    document = tmp_path / "wrong.md"
    document.write_text("```python a.py\nprint(1 + 1)\n```\n\n```console\n$ python a.py\n3\n$ echo a b c\na … c\n```\n")
    (problem,) = play(document, shell)
    assert problem == "line 5: python a.py\nshould print:\n3\nprinted:\n2"


def test_a_command_may_go_on_over_lines() -> None:
    assert list(commands("$ cat <<E\n> a\n> E\na\n$ true\n")) == [("cat <<E\na\nE", "a"), ("true", "")]


def test_every_link_leads_somewhere() -> None:
    documents = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    broken = [
        f"{document.relative_to(ROOT)}: {target}"
        for document in documents
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", document.read_text(encoding="utf-8"))
        if not (document.parent / target).exists()
    ]
    assert broken == []
