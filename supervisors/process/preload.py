"""What the fork server runs once, before it makes children: imports them their modules, and guards them.

multiprocess preloads by importing, ignores a module that is missing and dies of one that raises. So this one
module is preloaded; it imports the list, keeps the failures, and every child reports them when it says hello.

The fork server also stands between a killed supervisor and its orphans: it adopts every descendant, and when the
supervisor has died it kills them all. Its own death kills the children too (see `bootstrap`).

Importing this module does nothing unless this is a fork server that was told what to do, in one environment variable.
"""

import gc
import importlib
import json
import os
import signal
import sys
import warnings
from typing import Any, Final

from supervisors.process.guard import IS_LINUX, adopt_orphans, die_with_parent, lead_a_session
from supervisors.process.strays import kill_descendants

ORDERS: Final = "SUPERVISORS_FORK_SERVER"
"""Environment variable with the orders: a JSON object, made by `fork_server`."""

# A signal that nobody sends by habit: SIGTERM also comes from whoever stops a whole service.
PARENT_DIED: Final = signal.SIGRTMIN if IS_LINUX else signal.SIGUSR1

failures: dict[str, str] = {}
"""Module → why it could not be imported. Filled once, in the fork server."""

is_loaded = False
"""Whether the orders were carried out: true in the fork server and in each of its children."""


def import_all(modules: list[str]) -> dict[str, str]:
    """Import the modules; return those that could not be, with the error. Nothing they do ends the fork server."""
    failed = {}
    for name in modules:
        try:
            importlib.import_module(name)
        except BaseException as error:  # noqa: BLE001  also SystemExit: a module may raise anything at import
            failed[name] = f"{type(error).__name__}: {error}"
    return failed


def _carry_out(orders: dict[str, Any]) -> None:
    """Guard this process, then import what is named."""
    global is_loaded  # noqa: PLW0603  the record of the one time this runs
    lead_a_session()
    adopt_orphans()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # who stops a service signals all of it; children are drained first
    signal.signal(PARENT_DIED, lambda *_: _parent_died(orders["parent"]))
    if not die_with_parent(orders["parent"], by=PARENT_DIED):
        os._exit(0)
    _restore("PYTHONPATH", orders["path"])
    # It reaps the orphans it adopts, as it should, and multiprocess wonders about each of them.
    warnings.filterwarnings("ignore", message="forkserver: waitpid returned unexpected pid")
    failures.update(import_all(orders["modules"]))
    # What is here stays: without this, the first collection in each child copies every page.
    gc.collect()
    gc.freeze()
    is_loaded = True


def _parent_died(parent: int) -> None:
    """The thread that started the fork server has ended. Unless its process lives, end with all descendants."""
    if os.getppid() == parent:
        return
    kill_descendants(os.getpid())
    os._exit(0)


def _restore(name: str, value: str | None) -> None:
    if value is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = value


if ORDERS in os.environ and any("multiprocess.forkserver" in word for word in sys.orig_argv):
    _carry_out(json.loads(os.environ.pop(ORDERS)))
