"""Writing the offsets of a group: try after try, each heard to its end.

aiokafka's own `commit` shields each try: how it ends is heard by nobody once its caller gave up. And it goes on
trying as a member of whatever generation there is by then, over what others wrote. Here who gives up ends the try
as well, and a member tries in its own generation only. What is committed, and when, is left to the callers.
"""

import asyncio
from collections.abc import Mapping
from typing import Any, Final

from aiokafka import TopicPartition
from aiokafka import errors as kafka_errors
from aiokafka.structs import OffsetAndMetadata
from loguru import logger

from murmur.transports.kafka_link import DEADLINE

_PAUSE: Final = 0.1  # seconds between two tries
_MOVED: Final = (
    kafka_errors.UnknownMemberIdError,
    kafka_errors.IllegalGenerationError,
    kafka_errors.RebalanceInProgressError,
)


async def commit(consumer: Any, offsets: Mapping[TopicPartition, OffsetAndMetadata]) -> None:
    """Write offsets and their texts. Whether it was done is not known of one that is cancelled.

    Raises: CommitFailedError, when the group has moved on; TimeoutError, without an answer in time; KafkaError.
    """
    coordinator = consumer._coordinator  # aiokafka offers no public way
    generation = coordinator.generation
    async with asyncio.timeout(DEADLINE):
        while True:
            try:
                await coordinator.ensure_coordinator_known()
                if coordinator.generation != generation:
                    raise kafka_errors.CommitFailedError("the group has another generation")
                await coordinator._do_commit_offsets(None, offsets)
            except _MOVED as error:
                raise kafka_errors.CommitFailedError(str(error)) from error
            except kafka_errors.KafkaError as error:
                if not error.retriable:
                    raise
            except RuntimeError:
                pass  # uvloop's, where it writes to what has just closed
            else:
                return
            await asyncio.sleep(_PAUSE)


def heard(ended: "asyncio.Future[None]") -> None:
    """Take note of how something ended, which somebody may have stopped to wait for; a callback."""
    if not ended.cancelled() and (error := ended.exception()) is not None:
        logger.debug("a commit failed: {!r}", error)
