"""The progress bar of a gather: on stderr, and only where somebody can see it."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Progress = Callable[[int, int, int | None], object]


@contextmanager
def reporting(progress: bool | Progress | None, *, agent: str) -> Iterator[Progress | None]:
    """Return whom to tell (done, failed, total or None): the caller's function, a bar on a terminal, or nobody."""
    if progress is None or progress is False or (progress is True and not sys.stderr.isatty()):
        yield None
    elif progress is True:
        with _bar(agent) as tell:
            yield tell
    else:
        yield progress


@contextmanager
def _bar(agent: str) -> Iterator[Progress]:
    from rich.console import Console  # noqa: PLC0415  100 ms to import, for those who see the bar
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn  # noqa: PLC0415
    from rich.progress import Progress as Bar  # noqa: PLC0415

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[failed]} failed  {task.fields[rate]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Bar(*columns, console=Console(stderr=True), transient=False) as bar:
        shown = bar.add_task(agent, total=None, failed=0, rate="")

        def tell(done: int, failed: int, total: int | None) -> None:
            speed = bar.tasks[0].speed
            rate = f"{speed:,.1f}/s" if speed else ""
            bar.update(shown, completed=done + failed, total=total, failed=failed, rate=rate)

        yield tell
