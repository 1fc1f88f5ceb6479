"""What a kernel opens to work on a rollout: a pool of calls, readers, the record of the hub."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from fwupdate_helpers.errors import FirmwareUpdateError
from fwupdate_helpers.hub_pace import FREE_PACE
from fwupdate_helpers.retries import OnRetry, RetryPolicy
from fwupdate_helpers.rollout.calls import CallPool
from fwupdate_helpers.rollout.configuration_orders import ConfigurationOrders
from fwupdate_helpers.rollout.errors import RolloutNotFound
from fwupdate_helpers.rollout.following import Pace
from fwupdate_helpers.rollout.job_orders import JobOrders
from fwupdate_helpers.rollout.ledger import Ledger
from fwupdate_helpers.rollout.members import Members
from fwupdate_helpers.rollout.method_orders import MethodOrders
from fwupdate_helpers.rollout.orders import Orders
from fwupdate_helpers.rollout.sealing import unseal
from fwupdate_helpers.rollout.state import RolloutState
from fwupdate_helpers.rollout.terms import TAG, Tag, Terms, read_tag, terms_from_json

if TYPE_CHECKING:
    from azure.iot.hub import IoTHubRegistryManager

    from fwupdate_helpers.hub import Hub

LOCAL_LOOK_SECONDS: Final = 0.5
_AZURE_LOOK_SECONDS: Final = 5.0
_AZURE_PAGE_SECONDS: Final = 3.5
"""A unit of S1 has 20 queries a minute, and every page of 100 devices counts."""
_AZURE_SETTLE_SECONDS: Final = 30.0
"""How long a query is repeated that does not show all devices yet."""


@dataclass(frozen=True)
class Options:
    """How a kernel works on a rollout: nothing that the rollout itself depends on.

    Attributes:
        policy: How often and how long each call is tried.
        on_retry: Called with a `Retry` before each further try.
        lease_seconds: How long another kernel must show no life before it counts as dead.
        look_seconds: From one look at a wave to the next; None means what the hub allows.
    """

    policy: RetryPolicy
    on_retry: OnRetry | None
    lease_seconds: float
    look_seconds: float | None


class Session:
    """Open connections for one rollout.

    Attributes:
        hub: The hub.
        registry: The service client of the thread that works.
        pool: Calls, many at once.
        members: Reads devices.
        options: How to work.
    """

    def __init__(self, hub: Hub, registry: IoTHubRegistryManager, pool: CallPool, options: Options):
        self.hub, self.registry, self.pool, self.options = hub, registry, pool, options
        self.members = Members(registry, pool, policy=options.policy, on_retry=options.on_retry)

    @property
    def _settle_seconds(self) -> float:
        return _AZURE_SETTLE_SECONDS if self.hub.kind == "azure" else 0.0

    def ledger(self, rollout_id: str, run: str, keepers: tuple[str, ...]) -> Ledger:
        """Return the record of a rollout; nothing is read yet."""
        return Ledger(
            self.registry,
            rollout_id,
            run,
            keepers,
            lease_seconds=self.options.lease_seconds,
            policy=self.options.policy,
            on_retry=self.options.on_retry,
        )

    def find_ledger(self, rollout_id: str) -> tuple[Ledger, Tag]:
        """Find the record of a rollout, the newest when its id was used more than once.

        Raises:
            RolloutNotFound: There is none.
        """
        condition = f"tags.{TAG}.id = '{rollout_id}' AND IS_DEFINED(tags.{TAG}.terms)"
        tags = [read_tag(twin.tags) for twin in self.members.query(condition)]
        known = [tag for tag in tags if tag is not None and tag.terms is not None]
        for tag in sorted(known, key=_began_at, reverse=True):
            ledger = self.ledger(rollout_id, tag.run, _keepers(tag))
            try:
                return ledger, ledger.read()
            except RolloutNotFound:
                continue
        raise RolloutNotFound(
            rollout_id,
            f"The hub knows no rollout {rollout_id}. Check the spelling; on Azure, a query finds "
            "a new one some seconds later.",
        )

    def read_terms(self, tag: Tag, image: str | None) -> Terms:
        """Read the terms in the tag of a keeper.

        Args:
            tag: The tag.
            image: The image's address, where it is given anew.

        Raises:
            FirmwareUpdateError: They cannot be read.
        """
        content = tag.terms or {}
        try:
            uri = image or unseal(self.hub, str(content["image"]["uri"]))
            return terms_from_json(tag.rollout_id, tag.run, content, uri)
        except (KeyError, TypeError, ValueError) as error:
            raise FirmwareUpdateError(
                f"The plan of rollout {tag.rollout_id} on the hub cannot be read: somebody changed "
                "the tags of its devices. Begin a rollout with a new id."
            ) from error

    def read_state(self, terms: Terms) -> RolloutState:
        """Read who takes part and what is done, from the tags of the devices."""
        planned = sum(count for _, count in terms.sizes)
        deadline = time.monotonic() + self._settle_seconds
        tags = self.members.of(terms)
        while len(tags) < planned and time.monotonic() < deadline:
            time.sleep(_AZURE_PAGE_SECONDS)
            tags = self.members.of(terms)
        return RolloutState.from_tags(terms, tags)

    def orders(self, terms: Terms) -> Orders:
        """Return the way in which the rollout gives its orders."""
        policy, on_retry = self.options.policy, self.options.on_retry
        if terms.way == "method":
            return MethodOrders(self.pool, terms, policy=policy, on_retry=on_retry)
        if terms.way == "configuration":
            return ConfigurationOrders(self.hub, terms, policy=policy, on_retry=on_retry)
        return JobOrders(
            self.hub,
            self.registry,
            terms,
            settle_seconds=self._settle_seconds,
            policy=policy,
            on_retry=on_retry,
        )

    def pace(self, devices: int) -> Pace:
        """Return how often a wave of so many devices is looked at."""
        if self.options.look_seconds is not None:
            return Pace(self.options.look_seconds)
        if self.hub.pace == FREE_PACE:
            return Pace(LOCAL_LOOK_SECONDS)
        return Pace(max(_AZURE_LOOK_SECONDS, _AZURE_PAGE_SECONDS * math.ceil(devices / 100)))


@contextmanager
def open_session(hub: Hub, rollout_id: str, options: Options) -> Iterator[Session]:
    """Open what is needed to work on a rollout, and close it at the end."""
    registry = hub.new_registry()
    pool = CallPool(hub, f"rollout-{rollout_id}")
    try:
        yield Session(hub, registry, pool, options)
    finally:
        pool.close()
        registry.protocol.close()


def _began_at(tag: Tag) -> str:
    return str((tag.terms or {}).get("beganAt", ""))


def _keepers(tag: Tag) -> tuple[str, ...]:
    keepers = (tag.terms or {}).get("keepers")
    return tuple(map(str, keepers)) if isinstance(keepers, list) else ()
