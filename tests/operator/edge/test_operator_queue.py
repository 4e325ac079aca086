"""The work queue: one visit at a time for each resource, and no resource in the way of another."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from trimode_operator.kube.cache import Key
from trimode_operator.kube.workqueue import Limits, WorkQueue

A, B = Key("default", "a"), Key("default", "b")


class Visitor:
    """Notes visits; `act` is what a visit does."""

    def __init__(self) -> None:
        self.visits: list[Key] = []
        self.failures: list[str] = []
        self.active = True
        self.act: Callable[[Key], Awaitable[float | None]] = self._nothing
        self._changed = asyncio.Event()

    async def _nothing(self, _: Key) -> float | None:
        return None

    async def reconcile(self, key: Key) -> float | None:
        self.visits.append(key)
        self._changed.set()
        return await self.act(key)

    def failed(self, key: Key, error: BaseException) -> None:
        self.failures.append(type(error).__name__)

    async def until(self, count: int) -> None:
        await self._until(lambda: len(self.visits) >= count)

    async def until_seen(self, key: Key) -> None:
        await self._until(lambda: key in self.visits)

    async def _until(self, so: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not so():
                self._changed.clear()
                await self._changed.wait()


@asynccontextmanager
async def running(visitor: Visitor, **limits: float) -> AsyncIterator[WorkQueue]:
    queue = WorkQueue(visitor.reconcile, visitor.failed, lambda: visitor.active, Limits(**limits))  # type: ignore[arg-type]
    task = asyncio.create_task(queue.run())
    try:
        yield queue
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_what_waits_already_is_visited_once() -> None:
    visitor = Visitor()
    async with running(visitor, workers=1) as queue:
        for _ in range(5):
            queue.add(A)
        queue.add(B)
        await visitor.until(2)
        await asyncio.sleep(0)
        assert visitor.visits == [A, B]


async def test_what_happens_during_a_visit_leads_to_one_more() -> None:
    visitor, go_on = Visitor(), asyncio.Event()

    async def wait(_: Key) -> float | None:
        await go_on.wait()
        return None

    visitor.act = wait
    async with running(visitor, workers=4) as queue:
        queue.add(A)
        await visitor.until(1)
        queue.add(A)
        queue.add(A)
        assert visitor.visits == [A]  # never two at once
        go_on.set()
        await visitor.until(2)
        await asyncio.sleep(0)
        assert visitor.visits == [A, A]


async def test_a_visit_may_ask_for_the_next() -> None:
    visitor = Visitor()

    async def soon(_: Key) -> float | None:
        return 0.001 if len(visitor.visits) < 3 else None

    visitor.act = soon
    async with running(visitor) as queue:
        queue.add(A)
        await visitor.until(3)


async def test_one_that_fails_is_tried_again_and_others_go_on() -> None:
    visitor = Visitor()

    async def fail(key: Key) -> float | None:
        if key == A:
            raise RuntimeError("poisoned")
        return None

    visitor.act = fail
    async with running(visitor, workers=1, first_wait_s=0.001, longest_wait_s=0.002) as queue:
        queue.add(A)
        await visitor.until(4)
        queue.add(B)
        await visitor.until_seen(B)
        assert set(visitor.failures) == {"RuntimeError"}


async def test_one_that_hangs_is_cut_off() -> None:
    visitor = Visitor()

    async def hang(key: Key) -> float | None:
        if key == A:
            await asyncio.Event().wait()
        return None

    visitor.act = hang
    async with running(visitor, workers=1, visit_s=0.01, first_wait_s=100.0) as queue:
        queue.add(A)
        queue.add(B)
        await visitor.until(2)
        assert visitor.failures == ["TimeoutError"]


async def test_news_of_a_failing_resource_do_not_wait_for_its_long_back_off() -> None:
    visitor = Visitor()

    async def fail(_: Key) -> float | None:
        raise RuntimeError("no")

    visitor.act = fail
    async with running(visitor, first_wait_s=0.01, longest_wait_s=3600.0, growth=1e6) as queue:
        queue.add(A)
        await visitor.until(2)  # from now on it would wait for an hour
        queue.add(A)
        await visitor.until(3)


async def test_nothing_is_visited_without_the_right_to() -> None:
    visitor = Visitor()
    visitor.active = False
    async with running(visitor) as queue:
        queue.add(A)
        assert queue.depth == 0
        visitor.active = True
        queue.add(B)
        await visitor.until(1)
        assert visitor.visits == [B]


async def test_clearing_forgets_what_waits() -> None:
    visitor = Visitor()
    async with running(visitor, workers=1) as queue:
        queue.add(A)
        queue.clear()
        queue.add(B)
        await visitor.until(1)
        assert visitor.visits == [B]
