"""What ties a process to its parent, to its session and to its orphans: three Linux system calls.

A supervisor that is killed runs no clean-up, so the kernel has to do it. Elsewhere than on Linux these
calls do nothing, and the broken channel is the only sign of a dead parent. Who calls them, and what is
done about orphans, is left to `preload`, `bootstrap` and `strays`.
"""

import ctypes
import os
import signal
import sys
from typing import Final

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_CHILD_SUBREAPER: Final = 36
IS_LINUX: Final = sys.platform == "linux"


def die_with_parent(parent: int, *, by: int = signal.SIGKILL) -> bool:
    """Have the kernel send `by` to this process when its parent ends. Returns whether the parent still lives.

    Not inherited by children: each calls it for itself, after the fork. The parent may have died before
    the call, so its pid is compared with the one it should have: not with 1, which it has in a container.
    """
    if IS_LINUX:
        _prctl(_PR_SET_PDEATHSIG, by)
    return os.getppid() == parent


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent ends, whatever session it is in."""
    if IS_LINUX:
        _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def lead_a_session() -> None:
    """Lead a session and process group of one's own, so that `killpg` reaches all tools and Ctrl-C none."""
    if os.getsid(0) != os.getpid():
        os.setsid()


def kill_group(leader: int) -> None:
    """SIGKILL the process group of `leader`, if any of it is left."""
    try:
        os.killpg(leader, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"prctl({option}, {value}): {os.strerror(error)}")
