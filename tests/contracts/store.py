"""The law of the store port: an adapter is held to it by one subclass with a `harness` fixture.

    class TestSqlite(StoreContract):
        @pytest.fixture
        async def harness(self) -> AsyncIterator[StoreHarness]: ...

A store that lives in its broker is held to `FusedStoreContract` besides.
"""

from tests.contracts.store_beside import BesideContract
from tests.contracts.store_endings import EndingContract
from tests.contracts.store_fused import FusedContract
from tests.contracts.store_leases import LeaseContract


class StoreContract(LeaseContract, EndingContract, BesideContract):
    """All that a store must do."""


class FusedStoreContract(StoreContract, FusedContract):
    """All that a store must do that changes rows and messages in one step."""
