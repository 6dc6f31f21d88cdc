"""What `supervisors.testing` gives to users: a clock, children on strings, a recorder."""

import anyio
import pytest

from supervisors import ChildSpec, State, SupervisorSpec, open_supervisor
from supervisors.child import ChildContext
from supervisors.clock import sleep
from supervisors.events import ChildExited, ChildStarted
from supervisors.testing import Puppet, Recorder, VirtualClock, settle

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def test_the_example_of_the_package_holds() -> None:
    clock, poller = VirtualClock(), Puppet("poller")
    async with open_supervisor(SupervisorSpec(children=[poller.spec(clock)]), clock=clock) as sup:
        seen = Recorder(sup)
        poller.end()
        await clock.advance(1.0)
        assert poller.starts == 2
        assert sup.which_children()[0].state is State.UP
        assert [type(event) for event in seen.events] == [ChildExited, ChildStarted]
        assert len(seen.of(ChildStarted, "poller")) == 1
        assert seen.of(ChildStarted, "somebody else") == []


async def test_hours_pass_at_once_and_in_order() -> None:
    clock, woken = VirtualClock(), list[str]()

    async def wake(name: str, after: float) -> None:
        await sleep(clock, after)
        woken.append(f"{name} at {clock.now():g}")

    async with anyio.create_task_group() as tasks:
        for name, after in (("c", 7_200.0), ("a", 1.0), ("b", 3_600.0)):
            tasks.start_soon(wake, name, after)
        await clock.advance(3_600.0)
        assert woken == ["a at 1", "b at 3600"]
        assert await clock.jump()
        assert not await clock.jump()
    assert woken[-1] == "c at 7200"


async def test_a_recorder_waits_for_what_it_is_asked_for() -> None:
    puppet = Puppet("worker")
    clock = VirtualClock()
    async with open_supervisor(SupervisorSpec(children=[puppet.spec(clock)]), clock=clock) as sup:
        seen = Recorder(sup)
        puppet.end()
        await seen.until(lambda event: isinstance(event, ChildStarted))
        with pytest.raises(TimeoutError):
            await seen.until(lambda event: isinstance(event, ChildExited) and event.child == "nobody", within=0.01)


async def test_settling_waits_for_all_that_can_run() -> None:
    steps = []

    async def run(ctx: ChildContext) -> None:
        ctx.ready()
        for step in range(50):
            await anyio.lowlevel.checkpoint()
            steps.append(step)
        await anyio.sleep_forever()

    async with open_supervisor(SupervisorSpec(children=[ChildSpec(id="a", start=run)])):
        await settle()
        assert len(steps) == 50


async def test_a_puppet_that_does_not_run_cannot_end() -> None:
    with pytest.raises(RuntimeError, match="'idle' is not running"):
        Puppet("idle").end()
