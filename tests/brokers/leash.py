"""Become a server that dies with the test run: `python leash.py PARENT COMMAND...`.

A pytest that is killed runs no clean-up, and its servers would stay for ever. On Linux the
kernel kills them instead (PDEATHSIG). The signal is set here, in a process of its own that
then becomes the server, because code between fork and exec of a threaded pytest may hang.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main(parent: int, command: list[str]) -> None:
    """Replace this process by the command, leashed to the process `parent`."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the signal was set
        sys.exit(1)
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
