"""Read documents with a fleet of supervised actors: in process, or spread over Redis, with the same code.

    python distributed.py                                   # the standard library's module texts, in this process
    python distributed.py notes.txt README.md               # your own documents
    python distributed.py --broker redis://localhost:6379   # the same, over a real broker

`Reader` measures one document. One document is broken on purpose and answers with its error;
one makes its reader crash twice on purpose, and you see it restarted. `Librarian` is an actor
that itself gathers over `Reader`s and reduces their answers to what all documents share.
"""

import argparse
import asyncio
import importlib
import inspect
import math
import re
import sys
from collections import Counter
from pathlib import Path

from attrs import frozen
from loguru import logger
from rich.console import Console
from rich.table import Table

from murmur import Actor, AgentRuntime, Backoff, Redelivery, Reject
from murmur.worker import Worker

MODULES = (
    "argparse asyncio bisect calendar cmd collections concurrent.futures contextlib csv dataclasses datetime decimal "
    "difflib doctest email enum fractions functools gettext heapq html http.cookies imaplib inspect ipaddress json "
    "locale logging mailbox numbers optparse pdb pickle pickletools platform pprint random re sched secrets selectors "
    "shelve shlex smtplib statistics string subprocess tarfile tempfile textwrap threading timeit tokenize traceback "
    "types typing unittest urllib.request uuid warnings weakref xml.dom zipfile"
).split()
BROKEN, CRASHING = "broken-on-purpose", "crashes-on-purpose"
COMMON = frozenset(
    "about also been class default each example following from function given have into method module more must name "
    "names none number object objects only other python return returns self set should such than that their them then "
    "there these they this true false type types used using value values what when where which will with would".split()
)


@frozen
class Document:
    """A text to read."""

    title: str
    text: str


@frozen
class Reading:
    """What a reader found in one document."""

    title: str
    words: int
    sentences: int
    grade: float  # school years needed to read it (Flesch-Kincaid)
    terms: dict[str, int]  # the most frequent telling words


@frozen
class Shelf:
    """What a librarian found over all documents."""

    documents: int
    words: int
    hardest: str
    easiest: str
    terms: list[str]  # what the shelf is about: frequent in some documents, not common to all


class Reader(Actor[Document, Reading]):
    """Measure how hard a document is to read, and find its key terms."""

    redelivery = Redelivery(max_deliveries=4, backoff=Backoff(initial=0.2, factor=2.0, cap=1.0))

    async def receive(self, document: Document) -> Reading:
        if not document.text.strip():
            raise Reject(f"{document.title} holds no text")
        if document.title == CRASHING and self.context.attempt <= 2:
            raise RuntimeError(f"pretending to crash in attempt {self.context.attempt}")
        words = re.findall(r"[A-Za-z']+", document.text)
        sentences = max(len(re.findall(r"[.!?:](?:\s|$)", document.text)), 1)
        syllables = sum(max(len(re.findall(r"[aeiouy]+", word.lower())), 1) for word in words)
        count = max(len(words), 1)
        grade = 0.39 * count / sentences + 11.8 * syllables / count - 15.59
        telling = Counter(w for w in (word.lower().strip("'") for word in words) if len(w) > 3 and w not in COMMON)
        return Reading(document.title, len(words), sentences, round(grade, 1), dict(telling.most_common(12)))

    async def restarting(self, error: BaseException, message: object) -> None:
        Console(stderr=True).print(f"[yellow]a reader fell over[/] ({error}); a fresh one takes its document over")


class Librarian(Actor[list[Document], Shelf]):
    """Have every document read by the fleet, then say what the shelf is about."""

    async def receive(self, documents: list[Document]) -> Shelf:
        results = await self.context.runtime.gather(Reader, documents)
        readings: list[Reading] = [result.unwrap() for result in results if result.is_ok()]
        if not readings:
            raise Reject("none of the documents could be read")
        by_grade = sorted(readings, key=lambda reading: reading.grade)
        spread = Counter(term for reading in readings for term in reading.terms)
        weight: Counter[str] = Counter()
        for reading in readings:
            for term, times in reading.terms.items():
                weight[term] += int(times * math.log(1 + len(readings) / spread[term]))
        return Shelf(
            documents=len(readings),
            words=sum(reading.words for reading in readings),
            hardest=by_grade[-1].title,
            easiest=by_grade[0].title,
            terms=[term for term, _ in weight.most_common(8)],
        )


def standard_library() -> list[Document]:
    """Return the documentation texts of the standard library's modules."""
    documents = []
    for name in MODULES:
        module = importlib.import_module(name)
        members = (getattr(module, member, None) for member in getattr(module, "__all__", dir(module)))
        texts = [module.__doc__ or ""]
        members = (member for member in members if inspect.isroutine(member) or inspect.isclass(member))
        # Some classes keep a descriptor where others have their text.
        texts += [text for member in members if isinstance(text := member.__doc__, str)]
        documents.append(Document(name, "\n\n".join(texts)))
    return documents


def read_files(paths: list[Path]) -> list[Document]:
    """Return the given files as documents; bytes that are not UTF-8 are replaced."""
    return [Document(path.name, path.read_text("utf-8", errors="replace")) for path in paths]


async def run(documents: list[Document], broker: str | None) -> int:
    """Have all documents read, print a table, and return the exit code."""
    asked = [*documents, Document(BROKEN, "  "), Document(CRASHING, "It falls over twice. Then it is read.")]
    async with AgentRuntime(broker=broker) as runtime:
        worker = Worker(broker=broker, agents=(Reader, Librarian), concurrency=8) if broker else None
        if worker is not None:
            await worker.start()
        try:
            results = await runtime.gather(Reader, asked, max_concurrency=50, progress=True, timeout=120)
            shelf = (await runtime.run(Librarian, documents, timeout=120)).unwrap()
        finally:
            if worker is not None:
                await worker.stop()
    table = Table("document", "words", "grade", "key terms", "attempts", title=f"{len(asked)} documents")
    for document, result in zip(asked, results, strict=True):
        if result.is_ok():
            reading = result.unwrap()
            found = (f"{reading.words:,}", f"{reading.grade:.1f}", ", ".join(list(reading.terms)[:5]))
        else:
            found = ("-", "-", f"[red]{result.error}[/]")
        table.add_row(document.title, *found, str(result.metadata.attempts))
    out = Console(width=None if sys.stdout.isatty() else 140)
    out.print(table)
    out.print(
        f"{shelf.documents} documents, {shelf.words:,} words; easiest {shelf.easiest}, hardest {shelf.hardest}; "
        f"about: {', '.join(shelf.terms)}"
    )
    failed = [d.title for d, r in zip(asked, results, strict=True) if not r.is_ok() and d.title != BROKEN]
    return 1 if failed else 0


def main() -> int:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description="Read documents with a fleet of supervised actors.")
    parser.add_argument("documents", nargs="*", type=Path, help="text files; default: the standard library's texts")
    parser.add_argument("--broker", help="for instance redis://localhost:6379; default: in this process")
    arguments = parser.parse_args()
    missing = [str(path) for path in arguments.documents if not path.is_file()]
    if missing:
        parser.error(f"no such file: {', '.join(missing)}")
    logger.disable("murmur")  # what happens is told by the actors themselves here
    documents = read_files(arguments.documents) if arguments.documents else standard_library()
    return asyncio.run(run(documents, arguments.broker))


if __name__ == "__main__":
    sys.exit(main())
