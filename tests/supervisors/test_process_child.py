"""Children that are real processes: started, killed, restarted, stopped, and never left behind."""

import os
import signal

import pytest

from supervisors import open_supervisor
from supervisors.events import ChildExited, ChildStarted
from supervisors.reasons import Killed
from tests.backends import every_backend
from tests.supervisors import process_children as children
from tests.supervisors.processes import info_of, is_alive, next_of, process, tree, wait_dead

pytestmark = pytest.mark.timeout(60)


@every_backend
async def test_a_killed_child_is_noticed_and_replaced() -> None:
    async with open_supervisor(tree(process(children.wait))) as sup:
        first, events = info_of(sup), sup.events()
        os.kill(first, signal.SIGKILL)
        assert (await next_of(events, ChildExited)).reason == Killed(signal.SIGKILL)
        second = (await next_of(events, ChildStarted)).info
        assert second != first
        assert is_alive(second)
    assert wait_dead(first, second) == []
