"""The book of faults: what fits, how often and until when, with a clock that the test moves."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from fwupdate_helpers.localhub.errors import HubError
from fwupdate_helpers.localhub.fault_specs import FaultOrder
from fwupdate_helpers.localhub.faults import MAX_ENDED, Fault, FaultBook

PATH = "/firmware/t0ken_secret-1234567/edge-2.0.0.fw"
STAGE = {"path": ["firmwareUpdate", "stages", "applying", "startedAt"], "name": "applying"}
APPLYING = {"firmwareUpdate": {"stages": {"applying": {"startedAt": "now"}}}}


class Clock:
    """A clock that stands still until it is told."""

    def __init__(self) -> None:
        self.now = datetime(2026, 1, 1, tzinfo=timezone.utc)

    def __call__(self) -> datetime:
        return self.now

    def pass_by(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def book(clock: Clock) -> FaultBook:
    return FaultBook(clock, limit=4)


def order(kind: str, **fields: Any) -> FaultOrder:
    return FaultOrder.from_json({"kind": kind, **fields})


def swallow(**fields: Any) -> FaultOrder:
    return order("swallow_method_responses", **{"device_id": "d", **fields})


def texts(book: FaultBook) -> list[str]:
    return [fault.spec.text for fault in book]


def statuses(book: FaultBook, count: int, kind: str = "twin") -> list[int]:
    errors = [book.refusal(kind, "d") for _ in range(count)]
    return [0 if error is None else error.status for error in errors]


# -- life -------------------------------------------------------------------------------------


def test_a_fault_counts_down_and_then_is_used_up(book: FaultBook) -> None:
    fault = book.add(swallow(count=2))
    assert [book.method_answer_delay("d") for _ in range(3)] == [None, None, 0.0]
    assert (fault.state, fault.acted, fault.remaining) == ("used up", 2, 0)
    assert list(book) == [] and book.find(fault.id) is fault


def test_without_a_count_a_fault_acts_until_its_last_moment(book: FaultBook, clock: Clock) -> None:
    fault = book.add(swallow(seconds=10))
    clock.pass_by(9.999)
    assert [book.method_answer_delay("d") for _ in range(5)] == [None] * 5
    clock.pass_by(0.001)
    assert book.method_answer_delay("d") == 0.0
    assert (fault.state, fault.acted, fault.remaining) == ("expired", 5, None)


def test_a_fault_lives_ten_minutes_by_itself(book: FaultBook, clock: Clock) -> None:
    fault = book.add(swallow())
    assert fault.expires_at - clock.now == timedelta(minutes=10)
    assert fault.to_json()["expires_at"] == "2026-01-01T00:10:00.0000000Z"


def test_faults_are_cleared_one_by_one_and_all_at_once(book: FaultBook) -> None:
    first, second, third = (book.add(swallow(device_id=name)) for name in "abc")
    book.clear(second.id)
    book.clear("unknown")
    assert list(book) == [first, third]
    book.clear()
    assert {one.state for one in (first, second, third)} == {"cleared"} and list(book) == []
    book.clear()


def test_a_deleted_device_takes_its_faults_along(book: FaultBook) -> None:
    mine, other = book.add(swallow()), book.add(swallow(device_id="other"))
    book.add(order("refuse_service_calls", status=429))
    book.forget("d")
    assert mine.state == "cleared" and other.is_active and len(list(book)) == 2


def test_the_book_is_bounded_and_has_room_again_when_one_ends(
    book: FaultBook, clock: Clock
) -> None:
    faults = [book.add(swallow(seconds=10 + number)) for number in range(4)]
    with pytest.raises(HubError, match="4 faults already"):
        book.add(swallow())
    clock.pass_by(10)
    book.add(swallow())
    assert faults[0].state == "expired"


def test_only_the_last_of_those_that_ended_are_kept(book: FaultBook) -> None:
    ended: list[Fault] = []
    for _ in range(MAX_ENDED + 1):
        ended.append(book.add(swallow()))
        book.clear()
    assert book.find(ended[0].id) is None and book.find(ended[1].id) is ended[1]


# -- devices ----------------------------------------------------------------------------------


def test_the_oldest_of_a_kind_acts_and_swallowing_comes_before_delaying(book: FaultBook) -> None:
    slow = order("delay_method_responses", device_id="d", delay=2, count=1)
    slower = order("delay_method_responses", device_id="d", delay=3)
    book.add(slow), book.add(slower), book.add(swallow(count=1))
    assert [book.method_answer_delay("d") for _ in range(3)] == [None, 2.0, 3.0]
    assert book.method_answer_delay("other") == 0.0


@pytest.mark.parametrize(
    ("patch", "fits"),
    [
        (APPLYING, True),
        ({"firmwareUpdate": {"stages": {"applying": {"startedAt": None}}}}, False),
        ({"firmwareUpdate": {"stages": {"applying": {"endedAt": "now"}}}}, False),
        ({"firmwareUpdate": {"stages": "applying"}}, False),
        ({"firmwareUpdate": None}, False),
        ({}, False),
    ],
)
def test_a_stage_is_where_its_path_leads_to_a_value(
    book: FaultBook, patch: dict[str, Any], fits: bool
) -> None:
    book.add(order("drop_connection", device_id="d", at=STAGE, count=1))
    assert book.drops_after("other", APPLYING) is False
    assert book.drops_after("d", patch) is fits


def test_a_value_that_is_named_must_be_that_one(book: FaultBook) -> None:
    at = {"path": ["firmwareStatus"], "value": "completed"}
    book.add(order("lose_acknowledgement", device_id="d", at=at, puback=False))
    assert book.lost_acknowledgement("d", {"firmwareStatus": "error"}) is None
    lost = book.lost_acknowledgement("d", {"firmwareStatus": "completed"})
    assert lost is not None and lost.puback is False


def test_a_device_is_kept_off_after_the_drop_and_no_longer_than_asked(
    book: FaultBook, clock: Clock
) -> None:
    drop = order("drop_connection", device_id="d", at=STAGE, keep_off=5, count=1, seconds=60)
    fault = book.add(drop)
    assert not book.keeps_off("d")
    clock.pass_by(58)
    assert book.drops_after("d", APPLYING) and not book.drops_after("d", APPLYING)
    assert fault.is_active and fault.remaining == 0
    clock.pass_by(4.9)  # past the fault's own end
    assert book.keeps_off("d") and not book.keeps_off("other")
    clock.pass_by(0.1)
    assert not book.keeps_off("d") and fault.state == "used up"


def test_a_drop_that_comes_again_and_again_keeps_off_each_time(
    book: FaultBook, clock: Clock
) -> None:
    every = order("drop_connection", device_id="d", every=[1, 2], keep_off=3, seconds=100)
    fault = book.add(every)
    for _ in range(2):
        book.act(fault)
        assert book.keeps_off("d")
        clock.pass_by(3)
        assert not book.keeps_off("d") and fault.is_active
    assert (fault.acted, fault.remaining) == (2, None)


def test_the_same_seed_gives_the_same_pauses_within_their_limits(book: FaultBook) -> None:
    def pauses(seed: int) -> list[float]:
        fault = book.add(order("drop_connection", device_id="d", every=[1, 2], seed=seed))
        drawn = [fault.next_pause() for _ in range(50)]
        book.clear()
        return drawn

    first = pauses(7)
    assert first == pauses(7) != pauses(8)
    assert all(1 <= pause <= 2 for pause in first) and max(first) - min(first) > 0.5


# -- services ---------------------------------------------------------------------------------


def test_refusals_fit_by_kind_and_device(book: FaultBook) -> None:
    book.add(order("refuse_service_calls", status=503, kinds=["methods"], device_id="d", count=1))
    assert book.refusal("twin", "d") is None
    assert book.refusal("methods", "other") is None
    assert book.refusal("methods", None) is None
    error = book.refusal("methods", "d")
    assert error is not None and (error.code, error.retry_after) == (503001, None)
    assert list(book) == []


def test_a_second_fault_takes_over_when_the_first_is_used_up(book: FaultBook) -> None:
    book.add(order("refuse_service_calls", status=429, count=2, retry_after=0))
    book.add(order("refuse_service_calls", status=503, count=1))
    assert statuses(book, 4) == [429, 429, 503, 0]


def test_a_share_is_hit_in_the_long_run_and_repeats_with_its_seed(book: FaultBook) -> None:
    def hits(seed: int) -> list[int]:
        book.add(order("refuse_service_calls", status=429, share=0.3, seed=seed))
        seen = statuses(book, 2000)
        book.clear()
        return seen

    first = hits(3)
    assert 0.26 < first.count(429) / 2000 < 0.34
    assert hits(3) == first != hits(4)


# -- images -----------------------------------------------------------------------------------


def test_the_slowest_speed_counts_and_only_for_its_image(book: FaultBook) -> None:
    assert book.speed(PATH) is None
    book.add(order("slow_download", bytes_per_second=500))
    book.add(order("slow_download", bytes_per_second=200, image=PATH))
    assert (book.speed(PATH), book.speed("/firmware/another/a.fw")) == (200, 500)


def test_the_nearest_cut_that_is_still_ahead_is_the_next_one(book: FaultBook) -> None:
    near = book.add(order("cut_download", after=100, count=1))
    far = book.add(order("cut_download", after=900, count=1))

    def next_cut(sent: int) -> Fault | None:
        found = book.next_cut(PATH, sent)
        return found and found[0]

    assert [next_cut(sent) for sent in (0, 100, 101, 900, 901)] == [near, near, far, far, None]


def test_the_middle_of_an_image_is_changed_when_no_offset_is_given(book: FaultBook) -> None:
    book.add(order("corrupt_image"))
    book.add(order("corrupt_image", at=7, image=PATH))
    assert [spec.offset(101) for _, spec in book.corruptions(PATH)] == [50, 7]


# -- what is told and what is refused ---------------------------------------------------------


def test_each_fault_has_its_words_and_none_has_the_token_of_an_image(clock: Clock) -> None:
    book = FaultBook(clock)
    for one in (
        order("drop_connection", device_id="d", keep_off=5),
        order("drop_connection", device_id="d", at=STAGE),
        order("drop_connection", device_id="d", every=[1, 2.5]),
        order("delay_method_responses", device_id="d", delay=1.5),
        order("swallow_method_responses", device_id="d"),
        order("lose_acknowledgement", device_id="d", at=STAGE, puback=False),
        order("refuse_service_calls", status=429, share=0.3, kinds=["twin"], retry_after=3),
        order("slow_download", bytes_per_second=9, image=PATH),
        order("cut_download", after=5, reset=True, image=PATH),
        order("corrupt_image", at=4),
    ):
        book.add(one)
    assert texts(book) == [
        "drops the connection of d now, and keeps it off for 5 s",
        "drops the connection of d when it reports applying",
        "drops the connection of d every 1 to 2.5 s",
        "delays the method responses of d by 1.5 s",
        "swallows the method responses of d: the service gets 504101",
        "applies the reports of applying of d, and loses the answers, and their PUBACK, too",
        "refuses 30% of the twin calls of services with 429 and Retry-After: 3",
        "slows each download of the image …/edge-2.0.0.fw to 9 bytes/s",
        "resets the download of the image …/edge-2.0.0.fw after 5 bytes of an answer",
        "changes the byte at offset 4 of any image, under the same ETag",
    ]
    assert "t0ken" not in repr(list(book)) + str([fault.to_json() for fault in book])


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ({}, "'kind' is missing"),
        ({"kind": "explode"}, "'kind' must be one of drop_connection"),
        ({"kind": ["drop_connection"]}, "'kind' must be one of"),
        ({"kind": "swallow_method_responses"}, "'device_id' is missing"),
        ({"kind": "swallow_method_responses", "device_id": "d", "coutn": 1}, "there is no 'coutn'"),
        ({"kind": "swallow_method_responses", "device_id": "d", "count": True}, "'count' must"),
        ({"kind": "corrupt_image", "image": "/firmware/../hub.db"}, "'image' must be the path"),
        ({"kind": "cut_download", "after": 1, "reset": 1}, "'reset' must be true or false"),
        ({"kind": "drop_connection", "device_id": "d", "at": "x"}, "'at' must have a 'path'"),
        ({"kind": "drop_connection", "device_id": "d", "at": {"path": []}}, "1 to 10 names"),
        (
            {"kind": "drop_connection", "device_id": "d", "at": {"path": ["a"], "value": []}},
            "as 'value'",
        ),
        ({"kind": "drop_connection", "device_id": "d", "every": [0, 1]}, "'every' must be a numb"),
    ],
)
def test_a_bad_wish_is_refused_with_400_and_the_reason(body: dict[str, Any], problem: str) -> None:
    with pytest.raises(HubError, match=problem) as caught:
        FaultOrder.from_json(body)
    assert caught.value.code == 400004
