"""For tests of supervised code: time that tests move, children on strings, and OTP's own scenarios.

    async def test_a_crashed_poller_comes_back() -> None:
        clock, poller = VirtualClock(), Puppet("poller")
        spec = SupervisorSpec(children=[poller.spec(clock)])
        async with open_supervisor(spec, clock=clock) as sup:
            poller.end()  # it crashes
            await clock.advance(1.0)
            assert poller.starts == 2
            assert sup.which_children()[0].state is State.UP

`replay` plays a scenario of the OTP format through the decision core, through tasks, or through processes.
"""

from supervisors.testing.clock import VirtualClock, settle
from supervisors.testing.puppet import Boom, Puppet, StartRefused
from supervisors.testing.recorder import Recorder
from supervisors.testing.replay import replay

__all__ = ["Boom", "Puppet", "Recorder", "StartRefused", "VirtualClock", "replay", "settle"]
