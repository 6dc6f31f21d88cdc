"""Gives memory that was freed back to the system: a node does not hold for ever what it needed to start."""

import ctypes
import gc
import sys


def give_back() -> None:
    """Collect garbage and have the C library return free pages, where it can. Takes some milliseconds."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)
