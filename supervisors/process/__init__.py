"""The process shell: children that are operating-system processes, behind the same protocol as tasks.

`ProcessContext` is what such a child is given, and light to import; multiprocess is loaded by `open_processes`.
"""

from supervisors.process.context import Link, ProcessContext

__all__ = ["Link", "ProcessContext"]
