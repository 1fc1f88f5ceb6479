"""The one copy of a rollout's progress that counts, and who may write it.

It stands in the tag of the first keeper. Every write carries the ETag of the twin as it was last
seen, so that of two kernels one is told (412) and looks again. A kernel that runs the rollout
changes ``beat`` all the time; whether an owner still lives is seen from that, not from a clock,
because the clocks of two computers differ.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from fwupdate_helpers.contract import Json
from fwupdate_helpers.errors import DeviceNotFound, HubRequestError
from fwupdate_helpers.retries import OnRetry, RetryPolicy
from fwupdate_helpers.rollout.errors import RolloutBusy, RolloutNotFound
from fwupdate_helpers.rollout.terms import (
    Progress,
    Status,
    Tag,
    member_patch,
    progress_patch,
    read_tag,
)
from fwupdate_helpers.rollout.twin_tags import write_tag
from fwupdate_helpers.watching import read_twin

if TYPE_CHECKING:
    from azure.iot.hub import IoTHubRegistryManager

LEASE_SECONDS: Final = 15.0
"""An owner whose beat does not change for so long is dead."""
_WATCH_SECONDS: Final = 0.5
_LAST_SECONDS: Final = 5.0
"""How long the last entry is tried: the hub may be what failed."""
_BEATS: Final = 4
"""How many beats an owner makes in that time."""


class Ledger:
    """The progress of one rollout, as the hub has it.

    Args:
        registry: The service client.
        rollout_id: The rollout.
        run: See `Terms.run`.
        keepers: The devices that hold it, the one that counts first.
        lease_seconds: See `LEASE_SECONDS`.
        policy: How often and how long to try.
        on_retry: Called with a `Retry` before each further try.

    Attributes:
        progress: As it was last read or written.
    """

    def __init__(
        self,
        registry: IoTHubRegistryManager,
        rollout_id: str,
        run: str,
        keepers: tuple[str, ...],
        *,
        lease_seconds: float = LEASE_SECONDS,
        policy: RetryPolicy | None = None,
        on_retry: OnRetry | None = None,
    ) -> None:
        self._registry, self._rollout_id, self._run = registry, rollout_id, run
        self._keepers = list(keepers)
        self._lease_seconds = lease_seconds
        self._policy, self._on_retry = policy, on_retry
        self._me = uuid.uuid4().hex[:12]
        self._etag: str | None = None
        self._beat_at = 0.0
        self.progress = Progress(Status.PLANNED)

    @property
    def head(self) -> str:
        """The device whose copy counts.

        Raises:
            RolloutNotFound: All keepers were deleted.
        """
        if not self._keepers:
            raise RolloutNotFound(
                self._rollout_id,
                f"All devices that held the plan of rollout {self._rollout_id} are gone, so it "
                "cannot go on. Begin one with a new id for the devices that are left.",
            )
        return self._keepers[0]

    def read(self) -> Tag:
        """Read the copy that counts.

        Raises:
            RolloutNotFound: All keepers were deleted, or taken by other rollouts.
        """
        while True:
            try:
                twin = read_twin(
                    self._registry, self.head, policy=self._policy, on_retry=self._on_retry
                )
            except DeviceNotFound:
                self._keepers.pop(0)
                continue
            tag = read_tag(twin.tags)
            if tag is None or tag.run != self._run or tag.progress is None:
                self._keepers.pop(0)
                continue
            self._etag, self.progress = str(twin.etag), tag.progress
            return tag

    def open(self, content: Json) -> None:
        """Write the first entry, with this kernel as the owner.

        Args:
            content: The terms, for the tag.

        Raises:
            RolloutBusy: Another kernel begins a rollout on the same device at this moment.
        """
        head = self.head
        twin = read_twin(self._registry, head, policy=self._policy, on_retry=self._on_retry)
        self._etag = str(twin.etag)
        tag = read_tag(twin.tags)
        if tag and tag.progress and tag.progress.is_under_way:
            raise RolloutBusy(
                self._rollout_id,
                f"The device {head} was taken by the rollout {tag.rollout_id} at this moment. Run "
                "this one again when that one is over.",
            )
        first = Progress(Status.PREPARING, owner=self._me, beat=1)
        patch = member_patch(self._rollout_id, self._run, 1)
        self.progress = first
        entry = {**patch, "terms": content, "progress": progress_patch(first)}
        if not self._write(entry) and not self._is_mine():
            raise RolloutBusy(
                self._rollout_id,
                f"Somebody changes the tags of {head} at this moment: perhaps another kernel "
                f"begins the rollout {self._rollout_id}, too. Run this one again if not.",
            )

    def _is_mine(self) -> bool:
        """Tell whether the entry is there all the same: the answer to a write may be lost."""
        try:
            self.read()
        except RolloutNotFound:
            return False
        return self.progress.owner == self._me

    def claim(
        self, *, take_over: bool = False, wait: Callable[[float], object] = time.sleep
    ) -> None:
        """Become the owner; wait whether one that is noted still lives.

        Args:
            take_over: Become it at once. The other kernel is told at its next write.
            wait: Waits for seconds.

        Raises:
            RolloutBusy: Another kernel runs the rollout.
        """
        self.read()
        while True:
            owner = self.progress.owner
            if owner not in (None, self._me) and not take_over:
                self._watch(wait)
            mine = self.progress.with_(owner=self._me, beat=self.progress.beat + 1)
            if self._write({"progress": progress_patch(mine)}):
                self.progress = mine
                return
            self.read()

    def _watch(self, wait: Callable[[float], object]) -> None:
        """Return when the owner shows no life; the twin has then been read again."""
        seen, deadline = self.progress, time.monotonic() + self._lease_seconds
        while time.monotonic() < deadline:
            wait(min(self._lease_seconds / _BEATS, _WATCH_SECONDS))
            self.read()
            now = self.progress
            if now.owner is None:
                return
            if (now.owner, now.beat) != (seen.owner, seen.beat):
                raise RolloutBusy(
                    self._rollout_id,
                    f"Another kernel runs the rollout {self._rollout_id}. Look at it there, or "
                    "interrupt it there first; resume(take_over=True) takes it away from it.",
                )

    def save(self, progress: Progress) -> None:
        """Write how far the rollout is, on all keepers.

        Raises:
            RolloutBusy: Another kernel has taken the rollout over, or a person cancelled it.
        """
        self._save(progress)
        for keeper in self._keepers[1:]:
            self._copy(keeper)

    def beat(self) -> None:
        """Show that this kernel lives, when it is time to; raises as `save`."""
        if time.monotonic() - self._beat_at >= self._lease_seconds / _BEATS:
            self._save(self.progress)

    def cancel(self) -> None:
        """End the rollout for good, whoever owns it."""
        self.read()
        while True:
            beat = self.progress.beat + 1
            changed = self.progress.with_(status=Status.CANCELLED, owner=None, beat=beat)
            if self._write({"progress": progress_patch(changed)}):
                self.progress = changed
                return
            self.read()

    def release(self) -> None:
        """Note that no kernel runs the rollout; nothing when this one does not."""
        if self.progress.owner != self._me:
            return
        patient, self._policy = self._policy, (self._policy or RetryPolicy()).within(_LAST_SECONDS)
        try:
            self._save(self.progress, owner=None)
        finally:
            self._policy = patient

    def _save(self, progress: Progress, **owner: None) -> None:
        changed = progress.with_(beat=self.progress.beat + 1, **{"owner": self._me, **owner})
        while not self._write({"progress": progress_patch(changed)}):
            self.read()
            if self.progress.owner != self._me:
                raise RolloutBusy(
                    self._rollout_id,
                    f"The rollout {self._rollout_id} was taken over by another kernel, or "
                    "cancelled. This one gives no further orders.",
                )
        self.progress, self._beat_at = changed, time.monotonic()

    def _write(self, patch: Json) -> bool:
        """Write to the copy that counts; False when it was changed since, or has another place."""
        try:
            twin = write_tag(
                self._registry,
                self.head,
                patch,
                etag=self._etag,
                policy=self._policy,
                on_retry=self._on_retry,
            )
        except DeviceNotFound:
            return False
        except HubRequestError as error:
            if error.status != 412:
                raise
            return False
        self._etag = str(twin.etag)
        return True

    def _copy(self, keeper: str) -> None:
        try:
            write_tag(
                self._registry,
                keeper,
                {"progress": progress_patch(self.progress)},
                policy=self._policy,
                on_retry=self._on_retry,
            )
        except DeviceNotFound:
            self._keepers.remove(keeper)
