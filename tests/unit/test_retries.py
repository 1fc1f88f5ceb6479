"""The retry policy against its definition, with a fake clock and a seeded random."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from html import escape
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fwupdate_helpers.errors import (
    ANSWER_LOST,
    NOT_REACHED,
    NOT_TRUSTED,
    DeviceNotFound,
    DeviceOffline,
    FirmwareUpdateError,
    HubRequestError,
    HubThrottled,
    HubUnauthorized,
    HubUnavailable,
    UpdateFailed,
    UpdateRejected,
    UpdateTimeout,
)
from fwupdate_helpers.retries import (
    RETRY_RULES,
    CannotTell,
    Operation,
    Retry,
    RetryLog,
    RetryPolicy,
    Verdict,
)

BEGIN = datetime(2026, 5, 4, 12, 30, tzinfo=timezone.utc)
LOST = UpdateTimeout("device-01", "No answer.", code=504101)


def throttled(retry_after: float | None = None) -> HubThrottled:
    return HubThrottled("Too many.", status=429, code=429001, retry_after=retry_after)


class Clock:
    """Time that passes by sleeping, and by the tries."""

    def __init__(self, seed: int = 0) -> None:
        self.seconds = 1000.0
        self.slept: list[float] = []
        self.random = random.Random(seed).random

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.seconds += seconds

    def policy(self, **limits: Any) -> RetryPolicy:
        return RetryPolicy(
            random=self.random,
            clock=lambda: self.seconds,
            sleep=self.sleep,
            now=lambda: BEGIN + timedelta(seconds=self.seconds - 1000),
            **limits,
        )


class Calls:
    """A call that ends in one error after the other, and then succeeds."""

    def __init__(self, clock: Clock, *errors: Exception, seconds: float = 0.0) -> None:
        self.clock, self.errors, self.seconds = clock, list(errors), seconds
        self.begun: list[float] = []

    def __call__(self) -> str:
        self.begun.append(self.clock.seconds - 1000)
        self.clock.seconds += self.seconds
        if self.errors:
            raise self.errors.pop(0)
        return "done"


def call(
    policy: RetryPolicy,
    function: Callable[[], str],
    *,
    operation: Operation = Operation.TWIN,
    **options: Any,
) -> str:
    return policy.call(function, operation=operation, device_id="device-01", **options)


# --- the delays ---


@given(
    seed=st.integers(0, 2**32),
    attempts=st.integers(1, 12),
    base=st.floats(0, 10),
    cap=st.floats(0, 30),
    total=st.floats(0, 200),
    asked=st.lists(st.none() | st.floats(0.1, 60), min_size=12, max_size=12),
    seconds=st.floats(0, 5),
)
def test_every_delay_keeps_to_its_definition_and_no_try_begins_late(
    seed: int,
    attempts: int,
    base: float,
    cap: float,
    total: float,
    asked: list[float | None],
    seconds: float,
) -> None:
    clock = Clock(seed)
    policy = clock.policy(
        attempts=attempts, base_seconds=base, cap_seconds=cap, total_seconds=total
    )
    calls, log = Calls(clock, *map(throttled, asked), seconds=seconds), RetryLog()
    with pytest.raises(HubThrottled) as caught:
        call(policy, calls, on_retry=log)
    tries = len(calls.begun)
    assert len(clock.slept) == tries - 1 == len(log)
    for n, (delay, wanted) in enumerate(zip(clock.slept, asked, strict=False)):
        wanted = wanted or 0.0
        assert wanted <= delay <= wanted + min(cap, base * 2**n) + 1e-9
    assert calls.begun[-1] <= total + 1e-6
    assert clock.slept == [retry.delay for retry in log]
    # It gave up for one of the three reasons, and for no other.
    left = total - (clock.seconds - 1000)
    assert tries == attempts or left <= 1e-6 or (asked[tries - 1] or 0) >= left - 1e-6
    assert (caught.value.attempts, caught.value.seconds) == (tries, clock.seconds - 1000)


def test_full_jitter_spreads_the_delays_over_the_whole_range() -> None:
    clock = Clock(seed=7)
    policy = clock.policy(attempts=401, base_seconds=4, cap_seconds=4, total_seconds=10_000)
    with pytest.raises(HubThrottled):
        call(policy, Calls(clock, *(throttled() for _ in range(401))))
    quarters = [sum(int(delay) == quarter for delay in clock.slept) for quarter in range(4)]
    assert sum(quarters) == 400
    assert all(70 < quarter < 130 for quarter in quarters)


def test_the_longest_wait_doubles_up_to_its_cap_however_many_tries_there_are() -> None:
    policy = RetryPolicy(base_seconds=0.5, cap_seconds=3)
    assert [policy.longest_wait(n) for n in (1, 2, 3, 4, 5, 5000)] == [0.5, 1, 2, 3, 3, 3]


def test_what_the_hub_asks_for_comes_before_the_jitter() -> None:
    clock = Clock()
    assert call(clock.policy(base_seconds=1), Calls(clock, throttled(30))) == "done"
    assert 30 < clock.slept[0] < 31


def test_a_retry_after_longer_than_the_time_left_ends_at_once() -> None:
    clock, log = Clock(), RetryLog()
    with pytest.raises(HubThrottled) as caught:
        call(clock.policy(total_seconds=60), Calls(clock, throttled(61)), on_retry=log)
    assert (clock.slept, len(log)) == ([], 0)
    assert caught.value.retry_after == 61


def test_a_slow_try_uses_the_time_up() -> None:
    clock = Clock()
    calls = Calls(clock, *(throttled() for _ in range(5)), seconds=40)
    with pytest.raises(HubThrottled):
        call(clock.policy(total_seconds=60, base_seconds=0), calls)
    assert calls.begun == [0, 40]


def test_within_shortens_the_time_and_never_lengthens_it() -> None:
    policy = RetryPolicy(total_seconds=60)
    assert [policy.within(s).total_seconds for s in (5, 600, -1, float("inf"))] == [5, 60, 0, 60]


@pytest.mark.parametrize(
    "limits",
    [{"attempts": 0}, {"base_seconds": -1}, {"total_seconds": float("nan")}, {"cap_seconds": -0.1}],
)
def test_limits_that_make_no_sense_are_refused(limits: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(limits))):
        RetryPolicy(**limits)


# --- which errors ---

ERRORS: dict[str, tuple[FirmwareUpdateError, Verdict, Verdict]] = {
    text: (error, read, method)
    for text, error, read, method in (
        *(
            (str(code), HubRequestError("No.", status=code // 1000, code=code), read, method)
            for code, read, method in (
                (400004, Verdict.GIVE_UP, Verdict.GIVE_UP),
                (403002, Verdict.GIVE_UP, Verdict.GIVE_UP),
                (403800, Verdict.GIVE_UP, Verdict.GIVE_UP),
                (404002, Verdict.GIVE_UP, Verdict.GIVE_UP),
                (409001, Verdict.GIVE_UP, Verdict.GIVE_UP),
                (412001, Verdict.GIVE_UP, Verdict.GIVE_UP),
                (413001, Verdict.GIVE_UP, Verdict.GIVE_UP),
                (429001, Verdict.RETRY, Verdict.RETRY),
                (429003, Verdict.RETRY, Verdict.RETRY),
                (500001, Verdict.RETRY, Verdict.LOOK),
                (500008, Verdict.RETRY, Verdict.LOOK),
                (503001, Verdict.RETRY, Verdict.RETRY),
                (503005, Verdict.RETRY, Verdict.RETRY),
                (503102, Verdict.RETRY, Verdict.LOOK),
            )
        ),
        *(
            (str(status), HubRequestError("No.", status=status), read, method)
            for status, read, method in (
                (400, Verdict.GIVE_UP, Verdict.GIVE_UP),
                (418, Verdict.GIVE_UP, Verdict.GIVE_UP),
                (429, Verdict.RETRY, Verdict.RETRY),
                (500, Verdict.RETRY, Verdict.LOOK),
                (501, Verdict.GIVE_UP, Verdict.GIVE_UP),
                (502, Verdict.RETRY, Verdict.LOOK),
                (503, Verdict.RETRY, Verdict.LOOK),
                (504, Verdict.RETRY, Verdict.LOOK),
                (599, Verdict.RETRY, Verdict.LOOK),
            )
        ),
        ("401", HubUnauthorized("No."), Verdict.GIVE_UP, Verdict.GIVE_UP),
        ("404001", DeviceNotFound("d", "No."), Verdict.GIVE_UP, Verdict.GIVE_UP),
        ("404103", DeviceOffline("d", "No."), Verdict.GIVE_UP, Verdict.GIVE_UP),
        ("504101", LOST, Verdict.RETRY, Verdict.LOOK),
        ("unsent", HubUnavailable("No.", reason=NOT_REACHED), Verdict.RETRY, Verdict.RETRY),
        ("lost", HubUnavailable("No.", reason=ANSWER_LOST), Verdict.RETRY, Verdict.LOOK),
        ("distrust", HubUnavailable("No.", reason=NOT_TRUSTED), Verdict.GIVE_UP, Verdict.GIVE_UP),
        (
            "busy device",
            UpdateRejected("d", "No.", status=409, payload=None),
            Verdict.GIVE_UP,
            Verdict.GIVE_UP,
        ),
        ("failed", UpdateFailed("d", "No.", code="cancelled"), Verdict.GIVE_UP, Verdict.GIVE_UP),
        ("late", UpdateTimeout("d", "It did not end."), Verdict.GIVE_UP, Verdict.GIVE_UP),
    )
}


@pytest.mark.parametrize("name", ERRORS)
def test_the_table_says_what_is_tried_again(name: str) -> None:
    error, read, method = ERRORS[name]
    policy = RetryPolicy()
    assert policy.verdict(error, Operation.TWIN) is read
    assert policy.verdict(error, Operation.IDENTITY) is read
    assert policy.verdict(error, Operation.METHOD) is method


@pytest.mark.parametrize("name", ERRORS)
@pytest.mark.parametrize("operation", Operation)
def test_a_call_does_as_the_table_says(name: str, operation: Operation) -> None:
    error, read, method = ERRORS[name]
    clock = Clock()
    calls, looks = Calls(clock, error), []
    policy = clock.policy()
    verdict = method if operation is Operation.METHOD else read
    options = {"operation": operation, "resolve": lambda policy: looks.append(policy)}
    if verdict is Verdict.GIVE_UP:
        with pytest.raises(type(error)) as caught:
            call(policy, calls, **options)
        assert caught.value is error
        assert error.attempts == len(calls.begun) == 1
    else:
        assert call(policy, calls, **options) == "done"
        assert len(calls.begun) == 2
    assert len(looks) == (verdict is Verdict.LOOK)


def test_an_offline_device_is_tried_again_only_when_asked_for() -> None:
    clock, log = Clock(), RetryLog()
    calls = Calls(clock, DeviceOffline("device-01", "It is offline."))
    policy = clock.policy(retry_offline=True)
    assert call(policy, calls, operation=Operation.METHOD, on_retry=log) == "done"
    assert [(retry.cause, retry.verdict) for retry in log] == [(404103, Verdict.IF_OFFLINE_ALLOWED)]


def test_without_retries_every_error_comes_as_it_is() -> None:
    for error, _, _ in ERRORS.values():
        calls = Calls(Clock(), error)
        with pytest.raises(type(error)) as caught:
            call(RetryPolicy.none(), calls, operation=Operation.METHOD, resolve=lambda p: 1 / 0)
        assert caught.value is error
        assert "Tried" not in str(error)


def test_every_rule_can_be_found_and_says_why() -> None:
    assert all(RETRY_RULES.find(rule.cause) is rule for rule in RETRY_RULES)
    assert len({rule.cause for rule in RETRY_RULES}) == len(RETRY_RULES)
    html = RETRY_RULES._repr_html_()
    for rule in RETRY_RULES:
        assert escape(rule.why) in html
        assert escape(rule.name) in html
    assert html.count("<tr>") == len(RETRY_RULES) + 1


# --- a method that may have run ---


def test_what_the_twin_tells_is_the_result_and_nothing_is_repeated() -> None:
    clock, log = Clock(), RetryLog()
    calls = Calls(clock, LOST, LOST)
    policy = clock.policy()
    options = {"operation": Operation.METHOD, "on_retry": log}
    assert call(policy, calls, resolve=lambda policy: "it began", **options) == "it began"
    assert len(calls.begun) == 1
    assert [(retry.verdict, retry.delay) for retry in log] == [(Verdict.LOOK, 0)]


@pytest.mark.parametrize("reason", [CannotTell("no ids"), throttled()])
def test_when_the_twin_does_not_tell_the_methods_own_error_is_raised(reason: Exception) -> None:
    clock = Clock()
    calls = Calls(clock, LOST)

    def resolve(policy: RetryPolicy) -> str | None:
        raise reason

    with pytest.raises(UpdateTimeout) as caught:
        call(clock.policy(), calls, operation=Operation.METHOD, resolve=resolve)
    assert caught.value is LOST
    assert len(calls.begun) == 1


def test_a_method_that_may_have_run_is_never_repeated_without_a_way_to_tell() -> None:
    calls = Calls(Clock(), LOST)
    with pytest.raises(UpdateTimeout):
        call(Clock().policy(), calls, operation=Operation.METHOD)
    assert len(calls.begun) == 1


def test_an_error_of_a_later_try_does_not_hide_what_the_first_one_did() -> None:
    clock = Clock()
    busy = UpdateRejected("device-01", "An update is running.", status=409, payload=None)
    calls, found = Calls(clock, LOST, busy), iter([None, "it began late"])
    result = call(
        clock.policy(), calls, operation=Operation.METHOD, resolve=lambda policy: next(found)
    )
    assert result == "it began late"
    assert len(calls.begun) == 2


def test_a_look_at_the_twin_has_time_when_the_method_has_used_it_all() -> None:
    clock, given_time = Clock(), []

    def resolve(policy: RetryPolicy) -> str | None:
        given_time.append(policy.total_seconds)
        return None

    calls = Calls(clock, LOST, seconds=100)
    with pytest.raises(UpdateTimeout):
        call(clock.policy(total_seconds=60), calls, operation=Operation.METHOD, resolve=resolve)
    assert given_time == [2.0]


# --- what is to be seen ---


def test_a_retry_tells_what_failed_and_when_the_next_try_is() -> None:
    clock, log = Clock(), RetryLog()
    call(clock.policy(base_seconds=2), Calls(clock, throttled(5), seconds=3), on_retry=log)
    (retry,) = log
    assert retry == Retry(
        at=BEGIN + timedelta(seconds=3),
        device_id="device-01",
        operation=Operation.TWIN,
        attempt=1,
        cause=429001,
        verdict=Verdict.RETRY,
        delay=clock.slept[0],
    )
    assert str(retry) == (
        f"12:30:03 Try 1 of the twin read failed (429001): next try in {retry.delay:.1f} s."
    )


def test_an_error_keeps_its_type_and_cause_and_tells_how_often_it_was_tried() -> None:
    clock, sdk_error = Clock(), RuntimeError("of the SDK")
    errors = [throttled() for _ in range(3)]
    errors[-1].__cause__ = sdk_error
    calls = Calls(clock, *errors, seconds=1)
    with pytest.raises(HubThrottled, match=r"Too many\. Tried 3 times over 3\.0 s\.$") as caught:
        call(clock.policy(attempts=3, base_seconds=0), calls)
    assert caught.value.__cause__ is sdk_error
    assert (caught.value.code, caught.value.attempts, caught.value.seconds) == (429001, 3, 3.0)


def test_interrupt_ends_a_wait_and_a_try_at_once() -> None:
    clock = Clock()

    def interrupted(seconds: float) -> None:
        raise KeyboardInterrupt

    policy = RetryPolicy(sleep=interrupted)
    calls = Calls(clock, throttled(), throttled())
    with pytest.raises(KeyboardInterrupt):
        call(policy, calls)
    assert len(calls.begun) == 1
    with pytest.raises(KeyboardInterrupt):
        call(clock.policy(), lambda: interrupted(1))  # type: ignore[arg-type, func-returns-value]
    assert clock.slept == []


def test_a_log_is_bounded_and_counts_what_it_drops() -> None:
    log = RetryLog(size=2)
    assert (repr(log), log._repr_html_()) == ("No retries.", "<p>No retries.</p>")
    note = lambda n: Retry(  # noqa: E731
        BEGIN, f"<{n}>", Operation.METHOD, n, 503001, Verdict.RETRY, 1.25
    )
    for n in range(5):
        log(note(n))
    assert ([retry.attempt for retry in log], len(log), log.count) == ([3, 4], 2, 5)
    html = log._repr_html_()
    assert "&lt;4&gt;" in html
    assert "next try in 1.2 s" in html
    assert "<4>" not in html
    assert len(repr(log).splitlines()) == 2


def test_a_log_takes_retries_from_many_threads() -> None:
    log = RetryLog(size=100)
    retry = Retry(BEGIN, "d", Operation.TWIN, 1, 429, Verdict.RETRY, 0.0)

    def add() -> None:
        for _ in range(500):
            log(retry)
            list(log)

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (log.count, len(log)) == (2000, 100)
