"""Runs a document: writes its files, types its commands into one shell, and compares what comes back.

A block of Python is a file: its info string is `python NAME`, or `python NAME append`. A block of `console` is
typed: lines that begin with `$ ` are commands, `> ` goes on with one, the rest is what must be seen;
`…` stands for any text within a line.
"""

import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from attrs import frozen

ROOT = Path(__file__).parents[2]
_BLOCK = re.compile(r"^```(\w+)[ ]?([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@frozen
class Block:
    """A fenced block: what it is, what stands behind that, its text, and its line in the document."""

    kind: str
    info: str
    text: str
    line: int


def blocks(document: Path) -> list[Block]:
    """Return the fenced blocks of a document."""
    text = document.read_text(encoding="utf-8")
    return [
        Block(found[1], found[2], found[3], text.count("\n", 0, found.start()) + 1) for found in _BLOCK.finditer(text)
    ]


def commands(text: str) -> Iterator[tuple[str, str]]:
    """Yield each command of a console block with what should be seen after it."""
    command, seen = "", list[str]()
    for line in text.splitlines():
        if line.startswith("$ "):
            if command:
                yield command, "\n".join(seen)
            command, seen = line[2:], []
        elif line.startswith("> ") or line == ">":
            command += "\n" + line[2:]
        else:
            seen.append(line)
    if command:
        yield command, "\n".join(seen)


class Shell:
    """A bash in a folder, which knows `murmur` and `python` of this checkout. What it leaves behind is killed."""

    def __init__(self, folder: Path, replaced: Mapping[str, str]) -> None:
        self.folder = folder
        self._replaced = replaced
        self._typed = 0
        tools = folder / ".bin"
        tools.mkdir()
        for name, words in (("python", ""), ("murmur", "-m murmur.cli.main")):
            (tools / name).write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {words} "$@"\n')
            (tools / name).chmod(0o755)
        clean = {name: value for name, value in os.environ.items() if not name.startswith("MURMUR_")}
        environment = {**clean, "PATH": f"{tools}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
        self._bash = subprocess.Popen(
            ["bash", "-m"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=folder,
            env=environment,
            start_new_session=True,
        )

    def type(self, command: str) -> str:
        """Run one command; return what it printed, a background job's own output left out."""
        for shown, real in self._replaced.items():
            command = command.replace(shown, real)
        if command.endswith(" &"):
            command = f"{command[:-2]} >>.jobs.log 2>&1 &"
        assert self._bash.stdin is not None
        assert self._bash.stdout is not None
        self._typed += 1
        output = self.folder / f".output-{self._typed}"  # its own: what stays in the background goes on writing there
        self._bash.stdin.write(f"{{ {command}\n}} >{output.name} 2>&1 </dev/null\necho '-- done --'\n")
        self._bash.stdin.flush()
        while (line := self._bash.stdout.readline()) and line != "-- done --\n":
            pass  # bash tells of its jobs here
        return output.read_text().strip()

    def close(self) -> None:
        """Kill every job, each of which is a group of its own, and the shell."""
        self.type("kill -9 $(jobs -p)")
        os.killpg(self._bash.pid, signal.SIGKILL)
        self._bash.wait()
        for pipe in (self._bash.stdin, self._bash.stdout):
            if pipe is not None:
                pipe.close()


def play(document: Path, shell: Shell, *, skipped: tuple[str, ...] = ()) -> list[str]:
    """Run a document block by block, commands that begin as `skipped` left out; return what was not as it says."""
    problems = []
    for block in blocks(document):
        if block.kind == "python" and block.info:
            name, _, how = block.info.partition(" ")
            with (shell.folder / name).open("a" if how == "append" else "w", encoding="utf-8") as file:
                file.write(block.text)
        elif block.kind == "console":
            for command, expected in commands(block.text):
                if command.startswith(skipped):
                    continue
                seen = shell.type(command)
                if expected and not _fits(expected, seen):
                    problems.append(f"line {block.line}: {command}\nshould print:\n{expected}\nprinted:\n{seen}")
    return problems


def _fits(expected: str, seen: str) -> bool:
    pattern = "[^\n]*".join(re.escape(part) for part in expected.split("…"))
    return re.fullmatch(pattern, seen) is not None
