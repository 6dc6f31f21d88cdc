"""The law of the transport port: an adapter is held to it by one subclass with a `harness` fixture.

    class TestKafka(TransportContract):
        @pytest.fixture
        async def harness(self) -> AsyncIterator[TransportHarness]: ...

What brokers may do differently is decided by `Caps`, never by a broker's name.
"""

from tests.contracts.transport_faults import FaultContract
from tests.contracts.transport_messages import MessageContract
from tests.contracts.transport_ownership import OwnershipContract


class TransportContract(MessageContract, OwnershipContract, FaultContract):
    """All that a transport must do."""
