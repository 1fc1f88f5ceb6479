"""One policy for every call to the hub: how often, how long, and what is safe to ask twice.

The tries are made by tenacity; what this module adds is the budget of time, ``Retry-After``, and
the rule that a direct method which may have run is never simply repeated. `retry_rules` has the
table of errors, `retry_log` what is to be seen of the retries.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from typing import Final, Generic, TypeVar

from tenacity import RetryCallState, Retrying

from fwupdate_helpers.errors import FirmwareUpdateError
from fwupdate_helpers.retry_log import Retry, RetryLog
from fwupdate_helpers.retry_rules import RETRY_RULES, Operation, Verdict, cause_of

logger = logging.getLogger(__name__)

T = TypeVar("T")
OnRetry = Callable[[Retry], object]
Resolve = Callable[["RetryPolicy"], T | None]
"""Looks at the twin, with the policy for doing so: what the call has brought about, or None when
nothing shows, and it is safe to call again. Raises `CannotTell` when it is not."""
_NOT_NEGATIVE: Final = ("base_seconds", "cap_seconds", "total_seconds", "settle_seconds")


class CannotTell(Exception):
    """The twin does not tell whether a direct method has run, so it must not be repeated."""


def _now() -> datetime:
    return datetime.now(timezone.utc)


@dataclass(frozen=True)
class RetryPolicy:
    """How often and how long a call to the hub is tried; frozen, so that many may share one.

    The wait before try n + 2 is drawn between 0 and ``min(cap_seconds, base_seconds * 2**n)``
    ("full jitter"), so that a thousand services do not come back at once. What the hub asks for
    with ``Retry-After`` comes on top of it. Which errors are tried again, the table `RETRY_RULES`
    tells.

    Attributes:
        attempts: How many tries there are at most, the first one included.
        base_seconds: The longest first wait.
        cap_seconds: Where the doubling of the longest wait ends.
        total_seconds: No try begins later than this after the first one; where the hub asks for
            a longer wait than is left, the error comes at once. A try that is under way ends by
            its own time limit.
        retry_offline: Whether an offline device (404103) is tried again, too. Nothing has run
            there, so it is safe; for a short wait, `connect_timeout` is cheaper.
        settle_seconds: How long the twin is watched for a direct method that may have run.
        random: Draws between 0 and 1, for tests.
        clock: Tells the seconds, for tests.
        sleep: Waits for seconds, for tests. ``time.sleep`` ends at once on Interrupt.
        now: Tells the time of a `Retry`, UTC, for tests.

    Raises:
        ValueError: A limit is negative, or there is to be no try at all.

    Example:
        >>> patient = RetryPolicy(attempts=10, total_seconds=300)
        >>> invoke_firmware_update(registry, "device-01", policy=patient)  # doctest: +SKIP
    """

    attempts: int = 8
    base_seconds: float = 0.25
    cap_seconds: float = 5.0
    total_seconds: float = 120.0
    retry_offline: bool = False
    settle_seconds: float = 2.0
    random: Callable[[], float] = field(default=random.random, repr=False, compare=False)
    clock: Callable[[], float] = field(default=time.monotonic, repr=False, compare=False)
    sleep: Callable[[float], None] = field(default=time.sleep, repr=False, compare=False)
    now: Callable[[], datetime] = field(default=_now, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise ValueError("attempts must be 1 or more.")
        for name in _NOT_NEGATIVE:
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative.")

    @classmethod
    def none(cls) -> RetryPolicy:
        """Return the policy that tries once and asks no twin: every error comes as it is."""
        return cls(attempts=1, total_seconds=0, settle_seconds=0)

    def within(self, seconds: float) -> RetryPolicy:
        """Return this policy with no more time in all than `seconds`."""
        return replace(self, total_seconds=max(0.0, min(self.total_seconds, seconds)))

    def longest_wait(self, attempt: int) -> float:
        """Return the most seconds of back-off after the try with this number, from 1.

        >>> [RetryPolicy(base_seconds=1, cap_seconds=5).longest_wait(n) for n in (1, 2, 3, 4)]
        [1.0, 2.0, 4.0, 5.0]
        """
        doublings = min(attempt - 1, 1000)  # 2.0**1024 is too large for a float
        return float(min(self.cap_seconds, self.base_seconds * 2.0**doublings))

    def verdict(self, error: BaseException | None, operation: Operation) -> Verdict:
        """Return what this policy does after an error; errors that are not the kit's end it."""
        if not isinstance(error, FirmwareUpdateError):
            return Verdict.GIVE_UP
        verdict = RETRY_RULES.find(cause_of(error)).verdict(operation)
        if verdict is Verdict.IF_OFFLINE_ALLOWED and not self.retry_offline:
            return Verdict.GIVE_UP
        return verdict

    def call(
        self,
        function: Callable[[], T],
        *,
        operation: Operation,
        device_id: str,
        on_retry: OnRetry | None = None,
        resolve: Resolve[T] | None = None,
    ) -> T:
        """Call `function` until it succeeds, or until it is no use any more.

        Args:
            function: One try; its errors are the kit's, see `sdk_errors.hub_errors`.
            operation: What it asks of the hub: decides which errors are tried again.
            device_id: The device that it is about.
            on_retry: Called before each wait, and before each look at the twin.
            resolve: Looks at the twin for a direct method that may have run. Without it, such a
                call is never made again.

        Raises:
            FirmwareUpdateError: The last error, with its type, cause, code and ids; its `attempts`
                and `seconds` tell of all the tries.
        """
        return _Call(self, operation, device_id, on_retry, resolve).make(function)


class _Call(Generic[T]):
    """One call and its tries."""

    def __init__(
        self,
        policy: RetryPolicy,
        operation: Operation,
        device_id: str,
        on_retry: OnRetry | None,
        resolve: Resolve[T] | None,
    ) -> None:
        self._policy, self._operation, self._device_id = policy, operation, device_id
        self._on_retry, self._resolve = on_retry, resolve
        self._attempt, self._began = 0, policy.clock()
        self._may_have_run = self._cannot_tell = False

    def make(self, function: Callable[[], T]) -> T:
        tries = Retrying(
            sleep=self._policy.sleep,
            retry=self._is_safe,
            wait=self._wait,
            stop=self._is_over,
            before_sleep=self._tell,
            reraise=True,
        )
        try:
            return tries(self._try, function)
        except FirmwareUpdateError as error:
            error.tell_attempts(self._attempt, self._policy.clock() - self._began)
            raise

    def _try(self, function: Callable[[], T]) -> T:
        self._attempt += 1
        try:
            return function()
        except FirmwareUpdateError as error:
            verdict = self._policy.verdict(error, self._operation)
            self._may_have_run |= verdict is Verdict.LOOK
            # A later try may fail in another way; what the first one did still counts.
            if self._may_have_run and (found := self._look(error)) is not None:
                return found
            raise

    def _look(self, error: FirmwareUpdateError) -> T | None:
        policy = self._policy
        if self._resolve is None or policy.attempts == 1:
            self._cannot_tell = True
            return None
        self._note(error, Verdict.LOOK, 0.0)
        try:
            return self._resolve(policy.within(max(self._left, policy.settle_seconds)))
        except (CannotTell, FirmwareUpdateError) as reason:
            # The method's own error is the one to raise: it says that the method may have run.
            logger.info("The twin of %s does not help: %s", self._device_id, reason)
            self._cannot_tell = True
            return None

    @property
    def _left(self) -> float:
        return self._began + self._policy.total_seconds - self._policy.clock()

    def _is_safe(self, state: RetryCallState) -> bool:
        verdict = self._policy.verdict(_error(state), self._operation)
        return verdict is not Verdict.GIVE_UP and not self._cannot_tell

    def _wait(self, state: RetryCallState) -> float:
        asked = _asked(state)
        most = min(self._policy.longest_wait(self._attempt), max(0.0, self._left - asked))
        return asked + self._policy.random() * most

    def _is_over(self, state: RetryCallState) -> bool:
        return self._attempt >= self._policy.attempts or _asked(state) >= self._left

    def _tell(self, state: RetryCallState) -> None:
        error = _error(state)
        if isinstance(error, FirmwareUpdateError):
            verdict = self._policy.verdict(error, self._operation)
            after = Verdict.RETRY if verdict is Verdict.LOOK else verdict
            self._note(error, after, state.upcoming_sleep)

    def _note(self, error: FirmwareUpdateError, verdict: Verdict, delay: float) -> None:
        retry = Retry(
            at=self._policy.now(),
            device_id=self._device_id,
            operation=self._operation,
            attempt=self._attempt,
            cause=cause_of(error),
            verdict=verdict,
            delay=delay,
        )
        logger.info("%s", retry)
        if self._on_retry is not None:
            self._on_retry(retry)


def _error(state: RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome else None


def _asked(state: RetryCallState) -> float:
    """Return the seconds that the hub asks to wait."""
    return getattr(_error(state), "retry_after", None) or 0.0


__all__ = [
    "RETRY_RULES",
    "CannotTell",
    "OnRetry",
    "Operation",
    "Retry",
    "RetryLog",
    "RetryPolicy",
    "Verdict",
]
