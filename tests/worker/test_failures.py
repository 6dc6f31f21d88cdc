"""How the end of a worker's tree is told to whoever started it."""

import pytest

from murmur.errors import WorkerNotStarted
from murmur.worker.failures import told_as_ours
from supervisors import StartFailed
from supervisors.errors import StartTimeout
from supervisors.reasons import Crashed


def test_an_import_that_never_ends_is_told_by_its_module_and_in_words_of_ours() -> None:
    with (
        pytest.raises(WorkerNotStarted, match=r"importing shop\.agents takes too long there") as told,
        told_as_ours({"shop.agents"}),
    ):
        raise StartFailed("pool", Crashed(StartTimeout("worker/pool/process-1", 30.0)))
    assert "start_timeout" not in str(told.value)
