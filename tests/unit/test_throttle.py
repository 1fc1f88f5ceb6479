"""The limits of a tier, on a clock that the tests set: rates, messages of the day, routes."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from fwupdate_helpers.localhub.database import Database
from fwupdate_helpers.localhub.errors import QUOTA_EXCEEDED, THROTTLED, TOO_MANY_DEVICES, HubError
from fwupdate_helpers.localhub.jobs.scheduler import JobLimits
from fwupdate_helpers.localhub.store import Store
from fwupdate_helpers.localhub.throttle import BACKLOG_SECONDS, Throttle, TokenBucket
from fwupdate_helpers.localhub.throttled_routes import operation_of
from fwupdate_helpers.localhub.tiers import F1, S1, TIERS, Operation

EVENING = datetime(2026, 5, 4, 23, 59, 58, tzinfo=timezone.utc)


class Clock:
    """A clock that stands still until a test lets it go on."""

    def __init__(self) -> None:
        self.now = EVENING

    def __call__(self) -> datetime:
        return self.now

    def go_on(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def database(tmp_path: Path, clock: Clock) -> Iterator[Database]:
    one = Database(tmp_path / "hub.db", clock)
    yield one
    one.close()


@pytest.fixture
def throttle(database: Database, clock: Clock) -> Throttle:
    return Throttle(F1, database, clock)


def refused(throttle: Throttle, operation: Operation, amount: float = 1.0) -> HubError:
    with pytest.raises(HubError) as caught:
        throttle.admit(operation, amount)
    return caught.value


# --- buckets ---


def test_a_bucket_grants_what_it_holds_and_then_its_rate(clock: Clock) -> None:
    bucket = TokenBucket(2.0, 10.0, clock)
    assert [bucket.take(1) for _ in range(10)] == [0.0] * 10
    assert bucket.take(1) == 0.5
    clock.go_on(0.5)
    assert bucket.take(1) == 0.0
    assert bucket.take(1) == 0.5


def test_a_refusal_takes_nothing(clock: Clock) -> None:
    bucket = TokenBucket(1.0, 5.0, clock)
    bucket.take(4)
    assert [bucket.take(3) for _ in range(3)] == [2.0] * 3
    assert bucket.level == 1


def test_a_bucket_saves_up_no_more_than_it_holds(clock: Clock) -> None:
    bucket = TokenBucket(1.0, 5.0, clock)
    clock.go_on(86_400)
    assert bucket.level == 5


def test_what_is_more_than_a_bucket_holds_passes_when_it_is_full_and_is_owed(clock: Clock) -> None:
    bucket = TokenBucket(1.0, 5.0, clock)
    assert bucket.take(8) == 0.0
    assert bucket.take(1) == 4.0
    clock.go_on(4)
    assert bucket.take(1) == 0.0
    assert bucket.take(8) == 5.0


def test_a_clock_that_is_set_back_grants_nothing_until_it_goes_on(clock: Clock) -> None:
    bucket = TokenBucket(1.0, 5.0, clock)
    bucket.take(5)
    clock.go_on(-3600)
    assert bucket.take(1) == 1.0
    clock.go_on(1)
    assert bucket.take(1) == 0.0


def test_what_queues_is_told_its_turn_until_the_queue_is_full(clock: Clock) -> None:
    bucket = TokenBucket(1.0, 2.0, clock)
    assert [bucket.reserve(1, longest=3) for _ in range(6)] == [0, 0, 1, 2, 3, None]
    clock.go_on(1)
    assert bucket.reserve(1, longest=3) == 3


# --- rates of a tier ---


@pytest.mark.parametrize(
    ("operation", "at_once", "seconds"),
    [
        (Operation.REGISTRY, 100, 1),
        (Operation.QUERY, 20, 3),
        (Operation.JOB, 100, 1),
        (Operation.CONFIGURATION, 20, 3),
        (Operation.TWIN_UPDATE, 3000, 1),
        (Operation.CONNECT, 6000, 1),
    ],
)
def test_a_minutes_worth_passes_at_once_and_then_the_hub_asks_to_wait(
    throttle: Throttle, clock: Clock, operation: Operation, at_once: int, seconds: int
) -> None:
    for _ in range(at_once):
        throttle.admit(operation)
    error = refused(throttle, operation)
    assert (error.code, error.name, error.retry_after) == (
        THROTTLED,
        "ThrottlingException",
        seconds,
    )
    assert operation.value in error.message
    assert throttle.about()["throttled"] == {operation.value: 1}
    clock.go_on(seconds)
    throttle.admit(operation)


def test_one_rate_does_not_touch_another(throttle: Throttle) -> None:
    throttle.admit(Operation.QUERY, 20)
    assert refused(throttle, Operation.QUERY)
    throttle.admit(Operation.TWIN_READ)


def test_messages_of_devices_queue_and_then_too_many_wait(throttle: Throttle) -> None:
    throttle.admit(Operation.TELEMETRY, 6000)
    waits = []
    while (wait := throttle.turn(Operation.TELEMETRY)) is not None:
        waits.append(wait)
    assert waits[:2] == [0.01, 0.02]
    assert (len(waits), round(waits[-1], 6)) == (100 * BACKLOG_SECONDS, BACKLOG_SECONDS)
    assert throttle.about()["throttled"] == {Operation.TELEMETRY.value: 1}


def test_a_hub_without_a_tier_limits_and_counts_nothing(database: Database, clock: Clock) -> None:
    throttle = Throttle(None, database, clock)
    for operation in Operation:
        throttle.admit(operation, 10**9)
    assert throttle.turn(Operation.TELEMETRY) == 0
    throttle.charge(10**9)
    throttle.check_quota()
    assert (throttle.is_used_up, throttle.messages.used) == (False, 0)
    assert throttle.about() == {"tier": None}


# --- messages of the day ---


def test_a_message_is_half_a_kilobyte_on_f1_and_four_on_s1() -> None:
    assert [F1.messages(size) for size in (0, 1, 512, 513, 4096)] == [1, 1, 1, 2, 8]
    assert [S1.messages(size) for size in (0, 4096, 4097)] == [1, 1, 2]


def test_used_up_messages_come_back_with_the_next_day_in_utc(
    throttle: Throttle, clock: Clock
) -> None:
    throttle.charge(512 * (F1.daily_messages - 1))
    throttle.check_quota()
    throttle.charge(0)
    with pytest.raises(HubError) as caught:
        throttle.check_quota()
    error = caught.value
    assert (error.code, error.name, error.status) == (QUOTA_EXCEEDED, "IotHubQuotaExceeded", 403)
    assert "2026-05-05 00:00 UTC" in error.message
    clock.go_on(1.9)
    assert throttle.is_used_up
    clock.go_on(0.1)
    assert (throttle.is_used_up, throttle.messages.used) == (False, 0)


def test_messages_of_the_day_outlive_the_hub_and_those_of_yesterday_are_forgotten(
    tmp_path: Path, database: Database, throttle: Throttle, clock: Clock
) -> None:
    throttle.charge(512, 513)
    database.close()
    again = Database(tmp_path / "hub.db", clock)
    later = Throttle(F1, again, clock)
    assert later.about()["daily_messages"] == {
        "used": 3,
        "limit": 8000,
        "meter_bytes": 512,
        "resets_at": "2026-05-05T00:00:00Z",
    }
    clock.go_on(2)
    later.charge(0)
    rows = again.connection.execute("SELECT day, messages FROM daily_messages").fetchall()
    assert [tuple(row) for row in rows] == [("2026-05-05", 1)]
    again.close()


def test_what_is_rolled_back_costs_nothing(database: Database, throttle: Throttle) -> None:
    with pytest.raises(ZeroDivisionError), database.transaction():
        throttle.charge(512)
        raise ZeroDivisionError
    assert throttle.messages.used == 0


# --- sizes ---


def test_a_tier_has_so_many_devices_and_no_more(database: Database) -> None:
    store = Store(database, max_devices=2)
    fields = {"status": "enabled", "status_reason": None, "authentication": {"type": "none"}}
    for device_id in ("d1", "d2"):
        store.create(device_id, capabilities={}, **fields)
    with pytest.raises(HubError) as caught:
        store.create("d3", capabilities={}, **fields)
    assert caught.value.code == TOO_MANY_DEVICES
    store.delete("d1")
    store.create("d3", capabilities={}, **fields)


def test_f1_and_a_unit_of_s1_have_one_active_job_and_begin_on_ten_devices_a_second() -> None:
    assert {JobLimits.of(tier) for tier in TIERS.values()} == {JobLimits(1, 10)}
    assert JobLimits.of(None) == JobLimits()


# --- routes ---


@pytest.mark.parametrize(
    ("route", "operation"),
    [
        ("GET /devices", Operation.REGISTRY),
        ("POST /devices", Operation.REGISTRY),
        ("PUT /devices/{id}", Operation.REGISTRY),
        ("GET /statistics/devices", Operation.REGISTRY),
        ("POST /devices/query", Operation.QUERY),
        ("GET /twins/{id}", Operation.TWIN_READ),
        ("PATCH /twins/{id}", Operation.TWIN_UPDATE),
        ("PUT /twins/{id}", Operation.TWIN_UPDATE),
        ("POST /twins/{id}/methods", Operation.METHOD),
        ("GET /jobs/v2/query", Operation.JOB),
        ("PUT /jobs/v2/{id}", Operation.JOB),
        ("POST /jobs/v2/{id}/cancel", Operation.JOB),
        ("GET /configurations", Operation.CONFIGURATION),
        ("POST /configurations/testQueries", Operation.CONFIGURATION),
        ("GET /$localhub/status", None),
        ("PUT /firmware/{token}/{name}", None),
    ],
)
def test_each_route_counts_as_what_azure_counts_it(route: str, operation: Operation | None) -> None:
    method, _, path = route.partition(" ")
    assert operation_of(method, path) is operation
