"""Reports on their way: merged where that changes nothing, in their order, each heard once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fwupdate_helpers.device.reports import NotAcknowledged, ReportQueue
from fwupdate_helpers.merge import compose, merge

Json = dict[str, Any]
SCALARS = st.none() | st.integers(0, 3)
PATCHES = st.recursive(
    st.dictionaries(st.sampled_from("abc"), SCALARS, max_size=3),
    lambda inner: st.dictionaries(st.sampled_from("abc"), SCALARS | inner, max_size=3),
    max_leaves=8,
)


@given(target=PATCHES, first=PATCHES, second=PATCHES)
def test_a_composed_patch_does_what_the_two_do_one_after_the_other(
    target: Json, first: Json, second: Json
) -> None:
    before = merge({}, target)
    composed = compose(first, second)
    if composed is not None:
        assert merge(before, composed) == merge(merge(before, first), second)


@pytest.mark.parametrize("first", [{"a": None}, {"a": 1}, {"a": {"b": None}}])
def test_an_object_in_place_of_what_was_removed_stays_a_patch_of_its_own(first: Json) -> None:
    second: Json = {"a": {"b": {"c": 1}}}
    assert compose(first, second) is None


class Hub:
    """A hub in memory that is away until `back`, and fails as a test wants."""

    def __init__(self, limit: int = 64) -> None:
        self.twin: Json = {}
        self.got: list[Json] = []
        self.there = asyncio.Event()
        self.lost_answers = 0
        self.refuses: Callable[[Json], bool] = lambda patch: False
        self.queue = ReportQueue(self.send, ready=self.ready, limit=limit)

    async def ready(self) -> None:
        await self.there.wait()

    async def send(self, patch: Json) -> None:
        await asyncio.sleep(0)
        if self.refuses(patch):
            raise RuntimeError("refused")
        self.got.append(patch)
        self.twin = merge(self.twin, patch)
        if self.lost_answers:
            self.lost_answers -= 1
            raise NotAcknowledged

    def report(self, *patches: Json) -> list[asyncio.Task[None]]:
        return [asyncio.ensure_future(self.queue.report(patch)) for patch in patches]


def run(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(scenario(), 10))


def test_what_waits_for_the_hub_is_sent_in_one_patch() -> None:
    async def scenario() -> None:
        hub = Hub()
        reports = hub.report({"n": {"a": 1}}, {"n": {"b": 2}}, {"n": {"a": None}, "m": 3})
        await asyncio.sleep(0.01)
        assert not any(report.done() for report in reports)
        hub.there.set()
        await asyncio.gather(*reports)
        assert hub.got == [{"n": {"a": None, "b": 2}, "m": 3}]
        assert len(hub.queue) == 0

    run(scenario)


def test_what_cannot_be_merged_keeps_its_order() -> None:
    async def scenario() -> None:
        hub = Hub()
        hub.there.set()
        hub.twin = {"a": {"old": 1}}
        await asyncio.gather(*hub.report({"a": None}, {"a": {"new": 1}}, {"b": 1}))
        assert hub.got == [{"a": None}, {"a": {"new": 1}, "b": 1}]
        assert hub.twin == {"a": {"new": 1}, "b": 1}

    run(scenario)


def test_what_is_not_acknowledged_is_sent_again_with_what_has_come_meanwhile() -> None:
    async def scenario() -> None:
        hub = Hub()
        hub.there.set()
        hub.lost_answers = 2
        first = hub.report({"a": 1})
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await asyncio.gather(*first, *hub.report({"a": 2}))
        assert hub.got[0] == {"a": 1}
        assert hub.got[-1] == {"a": 2} == hub.twin
        assert all(one["a"] <= two["a"] for one, two in zip(hub.got, hub.got[1:], strict=False))

    run(scenario)


def test_a_refused_report_is_an_error_of_its_caller_and_of_nobody_else() -> None:
    async def scenario() -> None:
        hub = Hub()
        hub.refuses = lambda patch: "bad" in patch
        reports = hub.report({"a": 1}, {"bad": 1}, {"b": 2}, {"c": 3})
        hub.there.set()
        await asyncio.wait(reports)
        assert [type(report.exception()) for report in reports] == [
            type(None),
            RuntimeError,
            type(None),
            type(None),
        ]
        assert hub.twin == {"a": 1, "b": 2, "c": 3}
        assert hub.report({"d": 4})
        await asyncio.sleep(0.01)
        assert hub.twin["d"] == 4

    run(scenario)


def test_a_caller_that_gives_up_has_said_it_all_the_same() -> None:
    async def scenario() -> None:
        hub = Hub()
        given_up, kept = hub.report({"a": 1, "b": 1}, {"b": 2})
        await asyncio.sleep(0)
        given_up.cancel()
        hub.there.set()
        await kept
        assert hub.twin == {"a": 1, "b": 2}

    run(scenario)


def test_no_more_wait_than_the_limit_and_the_others_get_their_turn() -> None:
    async def scenario() -> None:
        hub = Hub(limit=3)
        reports = hub.report(*({f"n{n}": n} for n in range(10)))
        await asyncio.sleep(0.01)
        assert len(hub.queue) == 3
        hub.there.set()
        await asyncio.gather(*reports)
        assert hub.twin == {f"n{n}": n for n in range(10)}

    run(scenario)


def test_a_queue_that_is_closed_keeps_nobody_waiting() -> None:
    async def scenario() -> None:
        hub = Hub()
        (report,) = hub.report({"a": 1})
        await asyncio.sleep(0)
        hub.queue.close()
        with pytest.raises(asyncio.CancelledError):
            await report

    run(scenario)
