"""What worker processes print, on the node's stderr: whole lines, without secrets, and not more than anybody can read.

The pace is held by supervisors' `Output`; a process that floods loses its own lines, and hurts nobody else.
"""

import os
import sys

from murmur.redaction import LOGS_JSON, one_safe_text
from supervisors.events import OutputLine


def echo(line: OutputLine) -> None:
    """Write one line with the name of its process before it; as it is where logs are JSON lines."""
    dropped = f" ({line.dropped} lines before this one were too many)" if line.dropped else ""
    before = "" if os.environ.get(LOGS_JSON) == "1" else f"{line.child}{dropped} | "
    sys.stderr.write(f"{before}{one_safe_text(line.text)}\n")
    sys.stderr.flush()
