"""Agents that say what they should not: the password of the broker, in every way an error can."""

import logging
import os

from loguru import logger

from murmur import Actor, Backoff, Redelivery


class Leaky(Actor[str, str]):
    """Logs the broker's URL, and raises it."""

    redelivery = Redelivery(max_deliveries=2, backoff=Backoff(initial=0.01, cap=0.01))

    async def receive(self, how: str) -> str:
        url = os.environ["MURMUR_BROKER"]
        logger.info("connecting to {}", url)
        logging.getLogger("some.library").warning("cannot reach %s", url)
        logger.warning("\x1b[31mred\x1b[0m and a bell \x07")
        try:
            int(url)
        except ValueError as error:
            logger.exception("it broke")
            raise (ConnectionError if how == "retry" else ValueError)(f"lost {url!r}") from error
