"""A rollout: an update of many devices in waves, which bad news stop before the next wave."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Final

from fwupdate_helpers.contract import parse_version
from fwupdate_helpers.errors import FirmwareUpdateError
from fwupdate_helpers.events import EventLog
from fwupdate_helpers.retries import OnRetry, RetryPolicy
from fwupdate_helpers.rollout.errors import RolloutBusy, RolloutExists, RolloutOver
from fwupdate_helpers.rollout.ledger import LEASE_SECONDS, Ledger
from fwupdate_helpers.rollout.preparing import check_free, prepare, remove_tags
from fwupdate_helpers.rollout.report import RolloutPlan, RolloutReport
from fwupdate_helpers.rollout.running import OnChange, Runner
from fwupdate_helpers.rollout.session import Options, Session, open_session
from fwupdate_helpers.rollout.state import RolloutState
from fwupdate_helpers.rollout.terms import (
    KEEPERS,
    TAG,
    UNFINISHED,
    WAYS,
    Image,
    Limits,
    Progress,
    Status,
    Terms,
    Way,
    check_id,
)
from fwupdate_helpers.rollout.waves import DEFAULT_WAVES, plan_waves, read_waves

if TYPE_CHECKING:
    from fwupdate_helpers.hub import Hub

WAVE_SECONDS: Final = 600.0
REACH_SECONDS: Final = 60.0
SLOW_REACH_SECONDS: Final = 900.0


class Rollout:
    """An update of many devices, in waves, each of which must go well before the next one begins.

    Everything that it needs is kept in the tags of the devices that take part (`terms` tells how),
    so that it goes on in another kernel: see `load`. The address of the image is encrypted there.

    Args:
        hub: The hub.
        rollout_id: A name that no rollout on this hub has had: small letters, digits, hyphens.
        image: The address that devices get the image from; see `publish_image`.
        devices: What stands after WHERE in a query, for example ``"tags.site = 'A'"``, which takes
            the devices in the order of their ids; or the ids in the order in which they are to
            come. The set is fixed when the rollout begins.
        version: The version that the image brings, where it is known. Devices that run it already
            then start nothing.
        check_value: SHA-256 of the image's file, where it is known.
        allow_downgrade: Whether the image may be older than what runs.
        waves: For each wave a number of devices, a share of all of them, or ``"rest"``.
        by: How devices get their orders: by direct ``"method"``; by a ``"job"`` for each wave, in
            which the hub calls the devices; or by a ``"configuration"`` whose target grows wave by
            wave, so that devices which were offline catch up later.
        abort_at: The share of failed updates in a wave, 0 to 1, above which no other wave begins.
            A device that is late counts as failed; one that was not reached does not count.
        pause_seconds: Seconds from the end of a wave to the beginning of the next one.
        wave_seconds: Seconds after which a device of a wave that tells of no end is late; None
            means 600, or twice the `reach_seconds` where that is more.
        reach_seconds: Seconds after which a device of a wave that got no order counts as not
            reached. It is left out then; see `RolloutReport.not_reached`. None means 60, and 900
            by configuration on Azure, which looks at its target every five minutes.
        policy: How often and how long each call to the hub is tried; None is the default policy.
        on_retry: Called with a `Retry` before each further try, from any thread.
        look_seconds: Seconds from one look at a wave to the next; None means what the hub allows.
        lease_seconds: Seconds for which another kernel that runs the same rollout must show no
            life before this one takes it over.

    Attributes:
        rollout_id: The name.
        events: What has happened in this kernel, an `EventLog`.

    Raises:
        ValueError: An argument cannot be used.

    Example:
        >>> rollout = Rollout(hub, "fw-2-0-0", image=uri, version="2.0.0",
        ...                   devices="tags.site = 'A'")  # doctest: +SKIP
        >>> rollout.plan()  # doctest: +SKIP
        >>> report = rollout.run()  # doctest: +SKIP
    """

    def __init__(
        self,
        hub: Hub,
        rollout_id: str,
        *,
        image: str,
        devices: str | Sequence[str],
        version: str | None = None,
        check_value: str | None = None,
        allow_downgrade: bool = False,
        waves: Sequence[int | str] = DEFAULT_WAVES,
        by: Way = "method",
        abort_at: float = 0.1,
        pause_seconds: float = 0.0,
        wave_seconds: float | None = None,
        reach_seconds: float | None = None,
        policy: RetryPolicy | None = None,
        on_retry: OnRetry | None = None,
        look_seconds: float | None = None,
        lease_seconds: float = LEASE_SECONDS,
    ) -> None:
        if by not in WAYS:
            raise ValueError(f"by must be one of {', '.join(WAYS)}, not {by!r}.")
        if version is not None:
            parse_version(version)
        if by == "configuration" and version is None:
            raise ValueError("A rollout by configuration needs the version that the image brings.")
        self._hub, self.rollout_id = hub, check_id(rollout_id)
        self._image = Image(image, version, check_value, allow_downgrade)
        self._devices, self._sizes = devices, read_waves(waves)
        self._way: Way = by
        self._limits = self._limit(abort_at, pause_seconds, wave_seconds, reach_seconds)
        self._set_up(
            Options(policy or RetryPolicy(), on_retry or hub.retries, lease_seconds, look_seconds)
        )

    def _limit(
        self, abort_at: float, pause: float, wave: float | None, reach: float | None
    ) -> Limits:
        # Azure looks at a configuration's target every five minutes.
        is_slow = self._way == "configuration" and self._hub.kind == "azure"
        usual_reach = SLOW_REACH_SECONDS if is_slow else REACH_SECONDS
        wave = max(WAVE_SECONDS, 2 * (reach or usual_reach)) if wave is None else wave
        return Limits(abort_at, pause, wave, min(usual_reach, wave) if reach is None else reach)

    def _set_up(self, options: Options) -> None:
        self._options = options
        self.events = EventLog()
        self._state: RolloutState | None = None
        self._progress = Progress(Status.PLANNED)

    @classmethod
    def load(
        cls,
        hub: Hub,
        rollout_id: str,
        *,
        image: str | None = None,
        policy: RetryPolicy | None = None,
        on_retry: OnRetry | None = None,
        look_seconds: float | None = None,
        lease_seconds: float = LEASE_SECONDS,
    ) -> Rollout:
        """Read a rollout from the hub, whichever kernel began it; nothing is changed.

        Args:
            hub: The hub.
            rollout_id: The rollout.
            image: The image's address, needed only where this kernel has the connection string of
                another policy than the one that began the rollout.
            policy: As in `Rollout`.
            on_retry: As in `Rollout`.
            look_seconds: As in `Rollout`.
            lease_seconds: As in `Rollout`.

        Raises:
            RolloutNotFound: The hub knows no such rollout.
            FirmwareUpdateError: The plan cannot be read, or the hub was not reached.

        Example:
            >>> Rollout.load(hub, "fw-2-0-0").resume()  # doctest: +SKIP
        """
        rollout = cls.__new__(cls)
        rollout._hub, rollout.rollout_id = hub, check_id(rollout_id)
        rollout._set_up(
            Options(policy or RetryPolicy(), on_retry or hub.retries, lease_seconds, look_seconds)
        )
        with rollout._session() as session:
            rollout._read(session, image)
        return rollout

    def __repr__(self) -> str:
        return f"<Rollout {self.rollout_id}, {self._progress.status.value}>"

    @property
    def condition(self) -> str:
        """What stands after WHERE in a query for the devices that take part.

        Example:
            >>> plot_fleet(read_fleet(hub, rollout.condition))  # doctest: +SKIP
        """
        return f"tags.{TAG}.id = '{self.rollout_id}'"

    @property
    def update_id(self) -> str | None:
        """The id of the update on every device; None before the rollout has begun."""
        return self._state.terms.update_id if self._state else None

    def plan(self) -> RolloutPlan:
        """Return which device goes in which wave. A dry run: nothing is written or ordered.

        Raises:
            FirmwareUpdateError: No device is meant, or one that is named is not on the hub.
            ValueError: A device would be in no wave.
        """
        if self._state is not None:
            return self._state.plan()
        with self._session() as session:
            return self._plan(session).plan()

    def run(self, *, on_change: OnChange | None = None) -> RolloutReport:
        """Begin the rollout, and go on to its end, or to a wave with too many failures.

        Interrupt ends it cleanly between two looks: devices that have their order go on, no other
        one is given, and `resume` goes on, in this kernel or in another one.

        Args:
            on_change: Called with a `RolloutReport` at once and after every change, in this thread.

        Returns:
            How it ended; `RolloutReport.status` is ``completed``, ``stopped`` or ``cancelled``.

        Raises:
            RolloutExists: The id was used before, perhaps by this cell.
            RolloutConflict: A device takes part in another rollout that is not over.
            RolloutBusy: Another kernel runs this rollout, or takes it over.
            FirmwareUpdateError: No device is meant, or the hub was not reached or refused a
                request. What was begun can be resumed.
        """
        if self._state is not None:
            raise RolloutExists(
                self.rollout_id,
                f"The rollout {self.rollout_id} has begun already ({self._progress.status.value}); "
                "resume() goes on with it.",
            )
        with self._session() as session:
            state = self._plan(session, check=True)
            self._note("planned", state.plan().title)
            ledger = prepare(session, state)
            self._state, self._progress = state, ledger.progress
            return self._go_on(session, state, ledger, on_change)

    def resume(
        self,
        *,
        past_failures: bool = False,
        take_over: bool = False,
        on_change: OnChange | None = None,
    ) -> RolloutReport:
        """Go on where the rollout stands: with the rest of the wave, or with the next one.

        Devices of the wave that have their order are not ordered again, and get their time anew.

        Args:
            past_failures: Go on with the next wave of a rollout that was stopped by failures.
            take_over: Take it from another kernel at once, without looking whether that one lives.
            on_change: As in `run`.

        Raises:
            RolloutOver: It was stopped by failures, and `past_failures` is not given; or it was
                cancelled.
            RolloutBusy: Another kernel runs it.
            RolloutNotFound: It is not on the hub.
            FirmwareUpdateError: The hub was not reached or refused a request.
        """
        with self._session() as session:
            ledger, state = self._read(session)
            if self._is_over(past_failures):
                return state.report(self._progress)
            ledger.claim(take_over=take_over)
            self._progress = ledger.progress
            self._note("resumed", f"Resumed: {state.report(self._progress).title}")
            return self._go_on(session, state, ledger, on_change)

    def report(self) -> RolloutReport:
        """Return how far the rollout is, as the hub has it; nothing is changed.

        Raises:
            FirmwareUpdateError: No device is meant, or the hub was not reached.
        """
        with self._session() as session:
            if self._state is None:
                return self._plan(session).report(self._progress)
            _, state = self._read(session)
            return state.report(self._progress)

    def cancel(self) -> RolloutReport:
        """End the rollout for good: no further order is given, by no kernel.

        Devices that have their order go on with their update. A kernel that runs the rollout is
        told at its next beat.

        Raises:
            RolloutNotFound: It is not on the hub.
            FirmwareUpdateError: The hub was not reached or refused a request.
        """
        with self._session() as session:
            ledger, state = self._read(session)
            if self._progress.status not in (Status.COMPLETED, Status.CANCELLED):
                ledger.cancel()
                session.orders(state.terms).give_up(self._progress.wave)
                self._progress = ledger.progress
                self._note("cancelled", "The rollout was cancelled.")
            return state.report(self._progress)

    def forget(self) -> None:
        """Take a rollout that is over off the hub: its tags, and its configuration if it has one.

        Raises:
            RolloutBusy: It is not over; `cancel` it first.
            RolloutNotFound: It is not on the hub.
        """
        with self._session() as session:
            _, state = self._read(session)
            if self._progress.status in UNFINISHED:
                raise RolloutBusy(
                    self.rollout_id,
                    f"The rollout {self.rollout_id} is not over. Call cancel() first.",
                )
            session.orders(state.terms).give_up(self._progress.wave)
            remove_tags(session, list(state.plan().device_ids))
            self._state, self._progress = None, Progress(Status.PLANNED)

    # -- inside -----------------------------------------------------------------------------------

    @contextmanager
    def _session(self) -> Iterator[Session]:
        with open_session(self._hub, self.rollout_id, self._options) as session:
            yield session

    def _plan(self, session: Session, *, check: bool = False) -> RolloutState:
        chosen = session.members.chosen(self._devices)
        waves = plan_waves(chosen, self._sizes)
        if check:
            check_free(session, self.rollout_id, chosen)
        terms = Terms(
            rollout_id=self.rollout_id,
            run=uuid.uuid4().hex[:8],
            way=self._way,
            image=self._image,
            limits=self._limits,
            sizes=tuple((wave.size, len(wave.device_ids)) for wave in waves),
            keepers=tuple(chosen)[:KEEPERS],
            began_at=datetime.now(timezone.utc),
        )
        return RolloutState(terms, waves)

    def _read(self, session: Session, image: str | None = None) -> tuple[Ledger, RolloutState]:
        """Read the rollout from the hub."""
        ledger, tag = session.find_ledger(self.rollout_id)
        known = self._state.terms.image.uri if self._state else image
        self._state = session.read_state(session.read_terms(tag, known))
        self._progress = ledger.progress
        return ledger, self._state

    def _is_over(self, past_failures: bool) -> bool:
        status = self._progress.status
        if status is Status.STOPPED and not past_failures:
            raise RolloutOver(
                self.rollout_id,
                f"The rollout {self.rollout_id} was stopped: {self._progress.reason}. "
                "resume(past_failures=True) goes on all the same; a mended image needs a new "
                "rollout.",
            )
        if status is Status.CANCELLED:
            raise RolloutOver(
                self.rollout_id,
                f"The rollout {self.rollout_id} was cancelled, so it cannot go on. Begin one with "
                "a new id.",
            )
        if status is Status.PREPARING:
            raise RolloutOver(
                self.rollout_id,
                f"The rollout {self.rollout_id} was never planned to its end. Begin it again with "
                "the same arguments: run().",
            )
        return status is Status.COMPLETED

    def _go_on(
        self, session: Session, state: RolloutState, ledger: Ledger, on_change: OnChange | None
    ) -> RolloutReport:
        try:
            Runner(session, state, ledger, events=self.events, on_change=on_change).run()
        except RolloutBusy:
            if ledger.progress.status is not Status.CANCELLED:
                raise
            self._note("cancelled", "The rollout was cancelled by somebody else.")
        except BaseException as error:
            self._note("interrupted", f"Interrupted by {type(error).__name__}.")
            raise
        finally:
            # What cannot be released now is free when it has shown no life for a while.
            with suppress(FirmwareUpdateError):
                ledger.release()
            self._progress = ledger.progress
        return state.report(ledger.progress)

    def _note(self, kind: str, text: str) -> None:
        self.events.add(kind, text)
