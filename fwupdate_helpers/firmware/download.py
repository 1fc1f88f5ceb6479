"""The device's download: HTTPS, resumed where a connection broke off, retried with back-off.

The bytes go from the network to a `Sink` piece by piece. What the sink has, and the ETag it noted,
is all that a later call needs to go on, so a download survives a restart of the device. What
arrives is not trusted: the image is verified when it is complete, elsewhere.
"""

from __future__ import annotations

import asyncio
import os
import ssl
import time
from collections.abc import Callable
from functools import lru_cache

from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception_type,
    stop_after_attempt,
    wait_combine,
    wait_random_exponential,
)

from fwupdate_helpers.contract import CODE_DOWNLOAD_FAILED, CODE_NOT_TRUSTED
from fwupdate_helpers.errors import DownloadError
from fwupdate_helpers.firmware.download_policy import DownloadPolicy
from fwupdate_helpers.firmware.http_answers import TemporaryProblem
from fwupdate_helpers.firmware.pacing import Clock, Sleep
from fwupdate_helpers.firmware.transfer import Sink, Transfer
from fwupdate_helpers.firmware.uris import check_uri, shown

__all__ = ["DownloadPolicy", "Sink", "check_uri", "download", "shown", "tls_context"]


def tls_context(extra_ca_pem: str | None = None) -> ssl.SSLContext:
    """Return a TLS context that trusts the system's authorities, and one more.

    Args:
        extra_ca_pem: The certificate of that one, in PEM.

    Raises:
        DownloadError: It cannot be read, with the code `notTrusted`.
    """
    return _tls_context(extra_ca_pem, *map(os.environ.get, ("SSL_CERT_FILE", "SSL_CERT_DIR")))


@lru_cache(maxsize=4)
def _tls_context(extra_ca_pem: str | None, *where: str | None) -> ssl.SSLContext:
    # Kept, because reading the system's authorities takes 20 ms: for each device of a fleet.
    context = ssl.create_default_context()
    if extra_ca_pem:
        try:
            context.load_verify_locations(cadata=extra_ca_pem)
        except (ssl.SSLError, ValueError, TypeError):
            raise DownloadError(
                CODE_NOT_TRUSTED,
                "The additional certificate authority cannot be read: it must be PEM text that "
                "begins with '-----BEGIN CERTIFICATE-----'.",
            ) from None
    return context


async def download(
    uri: str,
    sink: Sink,
    policy: DownloadPolicy,
    *,
    tls: ssl.SSLContext,
    on_progress: Callable[[int, int | None], None],
    on_retry: Callable[[str], None],
    sleep: Sleep = asyncio.sleep,
    clock: Clock = time.monotonic,
) -> None:
    """Download an image into `sink`; returns when every byte is there and synced.

    Bytes that the sink has already are kept when the server confirms that they belong to the
    image it has now; when nothing is missing, a request without a body finds that out. A download
    that is cancelled closes its connection and syncs what it has.

    Args:
        uri: Where the image is.
        sink: Where it goes.
        policy: The limits.
        tls: Whom to trust, from `tls_context`.
        on_progress: Called with the bytes so far and the image's size, None while unknown.
        on_retry: Called with a sentence for the event log whenever something was not smooth.
        sleep: Waits for so many seconds.
        clock: Tells the time in seconds.

    Raises:
        DownloadError: With the code `uriRefused`, `notTrusted`, `downloadRefused`, `tooLarge`,
            `diskFull`, `imageChanged` or `downloadFailed`. No message holds more of an address
            than `shown` does.
        OSError: The sink failed for another reason than a lack of room.
    """
    check_uri(uri, allow_http=policy.allow_http)
    transfer = Transfer(
        uri, sink, policy, on_progress=on_progress, on_retry=on_retry, sleep=sleep, clock=clock
    )
    retrying = _Tries(transfer, policy, on_retry, clock).retrying(sleep)
    async with transfer.connect(tls):
        await retrying(transfer.attempt)


class _Tries:
    """When the next try is, and when there is none."""

    def __init__(
        self,
        transfer: Transfer,
        policy: DownloadPolicy,
        on_retry: Callable[[str], None],
        clock: Clock,
    ) -> None:
        self._transfer = transfer
        self._policy = policy
        self._on_retry = on_retry
        self._clock = clock

    def retrying(self, sleep: Sleep) -> AsyncRetrying:
        policy = self._policy
        jitter = wait_random_exponential(multiplier=policy.first_wait, max=policy.longest_wait)
        return AsyncRetrying(
            sleep=sleep,
            retry=retry_if_exception_type(TemporaryProblem),
            after=self._count_anew_after_progress,
            wait=wait_combine(jitter, self._asked_wait),
            stop=self._is_over,
            before_sleep=self._tell,
            retry_error_callback=self._give_up,
        )

    def _count_anew_after_progress(self, state: RetryCallState) -> None:
        if self._transfer.got_further():
            state.attempt_number = 0  # the count is of tries that brought nothing new

    def _asked_wait(self, state: RetryCallState) -> float:
        return min(_problem(state).asked_seconds, self._policy.longest_asked_wait)

    def _is_over(self, state: RetryCallState) -> bool:
        too_late = self._clock() + state.upcoming_sleep >= self._transfer.deadline
        return too_late or stop_after_attempt(self._policy.attempts)(state)

    def _tell(self, state: RetryCallState) -> None:
        self._on_retry(
            f"Download interrupted after {self._transfer.amount}: {_problem(state)}. "
            f"Next try in {state.upcoming_sleep:.1f} s."
        )

    def _give_up(self, state: RetryCallState) -> None:
        transfer = self._transfer
        limit = (
            f"the last {state.attempt_number} of them brought nothing new"
            if state.attempt_number >= self._policy.attempts
            else f"a download may take {self._policy.total_seconds:g} s at most"
        )
        raise DownloadError(
            CODE_DOWNLOAD_FAILED,
            f"The device gave up on {transfer.place} after {transfer.tries} tries and "
            f"{transfer.amount}: {_problem(state)}; {limit}. Check the network and the server, "
            "and start the update again.",
        )


def _problem(state: RetryCallState) -> TemporaryProblem:
    error = state.outcome.exception() if state.outcome else None
    # `retry=` lets nothing else come this far.
    return error if isinstance(error, TemporaryProblem) else TemporaryProblem(type(error).__name__)
