"""One process's questions to a real Redis: counts, leases, and a store that hangs, is gone, or comes back."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from bridge_adapter.settings import Store

pytest.importorskip("limits")
pytest.importorskip("redis")

import redis

from bridge_adapter.server.limit_store import LEASE, LimitStore
from bridge_adapter.server.store_connection import StoreUnavailable
from tests.adapter.server.redis_server import ENVIRONMENT, PATIENT, RedisServer


@asynccontextmanager
async def limit_store(timeout: float = PATIENT, lease: float = LEASE) -> AsyncIterator[LimitStore]:
    shared = LimitStore(Store(url_env=ENVIRONMENT, timeout=timeout), lease=lease)
    await shared.start()
    yield shared
    await shared.close()


async def remaining(shared: LimitStore) -> int:
    """Of 100 requests a minute, after this one."""
    window = (await shared.admit("ann", 100, None, None)).requests
    assert window is not None and window.granted
    return window.remaining


def is_refused_at_once(shared: LimitStore) -> bool:
    """Whether the store is not waited for, not even for a turn of the event loop."""
    with pytest.raises(StoreUnavailable):
        shared.admit("ann", 100, None, None).send(None)
    return True


async def test_a_lease_is_renewed_while_its_stream_lives(store: RedisServer) -> None:
    seconds = 2.0  # and renewals in time on a machine that holds one up for half of that
    async with limit_store(lease=seconds) as other:
        async with limit_store(lease=seconds) as mine:
            lease = (await mine.admit("ann", None, None, 1)).lease
            assert lease is not None
            async with store.client() as client, asyncio.timeout(30):
                first = await client.zscore(lease.key, lease.member)
                while await client.zscore(lease.key, lease.member) < first + seconds:  # it would be over
                    await asyncio.sleep(0.02)
            assert (await other.admit("ann", None, None, 1)).full
            mine.end("ann", None, lease)
        assert (await other.admit("ann", None, None, 1)).lease is not None


async def test_a_store_that_has_lost_its_scripts_gets_them(store: RedisServer) -> None:
    async with limit_store() as shared, store.client() as client:
        assert await remaining(shared) == 99
        await client.script_flush()
        assert await remaining(shared) == 98
        await client.script_flush()
        shared.end("ann", (100, 5), None)
        assert await remaining(shared) == 97
        while not await client.keys("*tokens*"):
            await asyncio.sleep(0.01)


async def test_a_refusal_takes_nothing_of_the_other_limits(store: RedisServer) -> None:
    async with limit_store() as shared:
        first = await shared.admit("ann", 2, (10, 6), 1)
        full = await shared.admit("ann", 2, (10, 6), 1)
        over = await shared.admit("ann", 2, (10, 6), 2)
        much = await shared.admit("ann", None, (10, 6), 2)
        shared.end("ann", (10, -6), first.lease)
        again = await shared.admit("ann", None, (10, 10), 1)
    assert first.lease is not None and first.tokens is not None and first.tokens.remaining == 4
    assert (full.full, full.lease, full.tokens) == (True, None, None)
    assert over.requests is not None and not over.requests.granted
    assert (over.full, over.lease, over.tokens) == (False, None, None)
    assert much.tokens is not None and not much.tokens.granted
    assert (much.full, much.lease) == (False, None)
    assert again.lease is not None and again.tokens is not None and again.tokens.granted


async def test_who_asks_a_store_that_hangs_waits_once_for_all_and_nobody_waits_after_that(store: RedisServer) -> None:
    async with limit_store(timeout=0.1) as shared:
        store.freeze()
        found = await asyncio.gather(*(shared.admit("ann", 100, None, None) for _ in range(64)), return_exceptions=True)
        assert {type(one) for one in found} == {StoreUnavailable}
        assert is_refused_at_once(shared)


async def test_one_question_is_enough_to_leave_a_store_alone_that_hangs(store: RedisServer) -> None:
    async with limit_store(timeout=0.1) as shared:
        store.freeze()
        with pytest.raises(StoreUnavailable) as unavailable:
            await shared.admit("ann", 100, None, None)
        assert unavailable.value.retry_after > 0
        assert is_refused_at_once(shared)


async def test_a_store_that_answers_again_is_found_without_a_request(store: RedisServer) -> None:
    async with limit_store(timeout=0.1) as shared:
        store.freeze()
        with pytest.raises(StoreUnavailable):
            await shared.admit("ann", 100, None, None)
        store.thaw()
        async with asyncio.timeout(30):
            while not shared.available:
                await asyncio.sleep(0.01)


async def test_a_store_that_refuses_connections_is_known_after_the_first_request(store: RedisServer) -> None:
    async with limit_store() as shared:
        store.stop()
        with pytest.raises(StoreUnavailable):
            await shared.admit("ann", 100, None, None)
        assert is_refused_at_once(shared)


async def test_a_connection_that_the_store_closes_is_made_again_before_anybody_is_refused(store: RedisServer) -> None:
    async with limit_store() as shared, store.client() as client:
        for left in (99, 98, 97):
            assert await remaining(shared) == left
            await client.client_kill_filter(_type="normal", skipme=True)


async def test_who_leaves_does_not_get_the_answer_of_another_one(store: RedisServer) -> None:
    async with limit_store() as shared:
        store.freeze()
        left = asyncio.create_task(shared.admit("ann", None, (50, 1), None))
        stays = asyncio.create_task(remaining(shared))
        for _ in range(5):  # until both are sent
            await asyncio.sleep(0)
        left.cancel()
        store.thaw()
        assert await stays == 99


async def test_an_event_loop_that_was_held_up_does_not_blame_the_store(store: RedisServer) -> None:
    timeout = 1.0  # in which the store must answer to the connection
    async with limit_store(timeout) as shared:
        ran = await store.scripts_run()
        store.freeze()
        asked = asyncio.create_task(remaining(shared))
        for _ in range(5):  # until it is sent
            await asyncio.sleep(0)
        store.thaw()
        with redis.Redis.from_url(store.url) as client:
            while client.info("commandstats").get("cmdstat_evalsha", {"calls": 0})["calls"] == ran:
                pass
        time.sleep(timeout)
        assert await asked == 99
