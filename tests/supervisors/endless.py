"""A module whose import never ends, unless it is imported by a test that looks for tests."""

import sys
import time

if any("forkserver" in word for word in sys.orig_argv):
    time.sleep(600)
