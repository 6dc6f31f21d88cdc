"""Both ready-made hooks under one law, on a real file and a real server."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from murmur.idempotency import Busy, Conflict, Duplicate, IdempotencyHook, Run, Stale, Stored, Token
from murmur.stores.redis_idempotency import RedisIdempotency
from murmur.stores.sqlite_idempotency import SqliteIdempotency
from tests.brokers.redis_server import RedisServer

pytestmark = pytest.mark.anyio
A1, A2, B1 = Token("a", 1), Token("a", 2), Token("b", 1)
_serial = itertools.count(1)


@pytest.fixture(params=["sqlite", "redis"])
async def hook(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[IdempotencyHook]:
    if request.param == "sqlite":
        hook: IdempotencyHook = SqliteIdempotency(tmp_path / "records.db", retention=60.0)
    else:
        server: RedisServer = request.getfixturevalue("redis_server")
        hook = RedisIdempotency(server.url, retention=60.0, prefix=f"test:{next(_serial)}:")
    yield hook
    await hook.close()


async def test_a_new_key_is_ours_to_run_and_its_output_is_kept(hook: IdempotencyHook) -> None:
    assert await hook.claim("k", A1, "digest", 5.0) == Run()
    assert await hook.claim("k", A1, "digest", 5.0) == Run()  # a repeat of what nobody heard the answer of
    assert await hook.complete("k", A1, b'"\x00\xc3\xa4"') == Stored()
    assert await hook.claim("k", A2, "digest", 5.0) == Duplicate(b'"\x00\xc3\xa4"')
    assert await hook.claim("k", B1, "digest", 5.0) == Duplicate(b'"\x00\xc3\xa4"')
    assert await hook.complete("k", B1, b'"other"') == Duplicate(b'"\x00\xc3\xa4"')


async def test_another_task_waits_while_the_key_is_held(hook: IdempotencyHook) -> None:
    await hook.claim("k", A1, "digest", 5.0)
    busy = await hook.claim("k", B1, "digest", 5.0)
    assert isinstance(busy, Busy)
    assert 0 < busy.retry_after <= 5.0
    assert await hook.complete("k", B1, b"1") == Stale()


async def test_a_later_attempt_of_the_same_task_overtakes_and_the_earlier_one_keeps_nothing(
    hook: IdempotencyHook,
) -> None:
    await hook.claim("k", A1, "digest", 5.0)
    assert await hook.claim("k", A2, "digest", 5.0) == Run()
    assert isinstance(await hook.claim("k", A1, "digest", 5.0), Busy)
    assert not await hook.renew("k", A1, 5.0)
    assert await hook.complete("k", A1, b'"stale"') == Stale()
    await hook.abandon("k", A1)
    assert await hook.complete("k", A2, b'"new"') == Stored()


async def test_a_claim_that_lapsed_is_anybody_s_and_one_that_is_renewed_is_not(hook: IdempotencyHook) -> None:
    await hook.claim("lapsed", A1, "digest", 0.2)
    await hook.claim("renewed", A1, "digest", 0.2)
    assert await hook.renew("renewed", A1, 5.0)
    await asyncio.sleep(0.3)
    assert await hook.claim("lapsed", B1, "digest", 5.0) == Run()
    assert isinstance(await hook.claim("renewed", B1, "digest", 5.0), Busy)


async def test_another_input_under_the_key_is_a_conflict(hook: IdempotencyHook) -> None:
    await hook.claim("k", A1, "digest", 5.0)
    assert await hook.claim("k", B1, "another", 5.0) == Conflict()
    await hook.complete("k", A1, b"1")
    assert await hook.claim("k", B1, "another", 5.0) == Conflict()


async def test_what_was_abandoned_is_free_and_what_was_kept_stays(hook: IdempotencyHook) -> None:
    await hook.claim("k", A1, "digest", 5.0)
    await hook.abandon("k", A1)
    assert await hook.claim("k", B1, "another", 5.0) == Run()
    await hook.complete("k", B1, b"1")
    await hook.abandon("k", B1)
    assert await hook.claim("k", A1, "another", 5.0) == Duplicate(b"1")


async def test_of_many_who_claim_at_once_one_runs(hook: IdempotencyHook) -> None:
    answers = await asyncio.gather(*(hook.claim("k", Token(f"t{n}", 1), "digest", 5.0) for n in range(20)))
    assert sorted(type(answer).__name__ for answer in answers) == ["Busy"] * 19 + ["Run"]
