"""One evaluation of all configurations: whom each targets, what it writes there, its counts."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from fwupdate_helpers.localhub import query
from fwupdate_helpers.localhub.configurations.content import merged, patch_towards, share_out
from fwupdate_helpers.localhub.configurations.specification import Configuration
from fwupdate_helpers.localhub.configurations.store import ConfigurationStore
from fwupdate_helpers.localhub.errors import HubError
from fwupdate_helpers.localhub.jsontext import dumps
from fwupdate_helpers.localhub.twin_changes import TwinChanges
from fwupdate_helpers.localhub.twins import Writer

logger = logging.getLogger(__name__)

Json = dict[str, Any]

APPLIED: Final = "Applied"
TARGETED: Final = "Targeted"
"""The status of a configuration that targets a device and writes nothing there."""
_BATCH: Final = 50
"""Devices in one transaction; between two of them the hub answers its clients."""


@dataclass(frozen=True)
class _State:
    """What of a device an evaluation looks at.

    Attributes:
        desired: Its desired properties.
        statuses: The root ``configurations`` of its twin.
        written: Configuration id to what it has written.
    """

    desired: Json
    statuses: Json
    written: Mapping[str, Json]


class Evaluation:
    """Brings the twins in line with all configurations, each time it is run."""

    def __init__(self, store: ConfigurationStore, twins: TwinChanges) -> None:
        self._store = store
        self._database = store.database
        self._twins = twins

    async def run(self, is_outdated: Callable[[], bool]) -> None:
        """Evaluate once.

        Args:
            is_outdated: Whether the configurations have changed meanwhile; the rest is left to the
                next run then, so that nothing is written for one that is gone.
        """
        configurations = {one.configuration_id: one for one in self._store.all()}
        targets: dict[str, list[str]] = {}
        for name, one in configurations.items():
            targets[name] = self._targets(one)
            await asyncio.sleep(0)
        plan = _Plan(configurations, targets)
        device_ids = sorted({*plan.device_ids, *self._store.marked_devices()})
        for start in range(0, len(device_ids), _BATCH):
            if is_outdated():
                return
            self._bring_in_line(plan, device_ids[start : start + _BATCH])
            await asyncio.sleep(0)
        await self._count_all(configurations, targets)

    async def _count_all(
        self, configurations: Mapping[str, Configuration], targets: Mapping[str, list[str]]
    ) -> None:
        applied = self._store.applied_counts()
        results: dict[str, Json] = {}
        for name, one in configurations.items():
            system = {"targetedCount": len(targets[name]), "appliedCount": applied.get(name, 0)}
            results[name] = {"system": system, "custom": self._custom(one)}
            await asyncio.sleep(0)
        self._store.save_results(results)

    def _targets(self, configuration: Configuration) -> list[str]:
        condition = configuration.specification.target_condition
        try:
            return query.device_ids(self._database, condition) if condition.strip() else []
        except HubError as error:
            name = configuration.configuration_id
            logger.warning("the target condition of %s stays as it is: %s", name, error.message)
            return self._store.devices_of(name)

    def _bring_in_line(self, plan: _Plan, device_ids: list[str]) -> None:
        with self._database.transaction():
            for device_id, state in self._states(device_ids):
                self._bring_one_in_line(device_id, state, plan.shares(device_id), plan)

    def _bring_one_in_line(
        self, device_id: str, state: _State, shares: Mapping[str, Json], plan: _Plan
    ) -> None:
        wanted = {name: part for name, part in shares.items() if part}
        patch = patch_towards(
            state.desired, merged(wanted.values()), merged(state.written.values())
        )
        statuses = _statuses(shares, wanted)
        if not patch and statuses == state.statuses and wanted == state.written:
            return
        try:
            self._twins.configure(device_id, patch, plan.writers(wanted), statuses)
        except HubError as error:
            self._leave_alone(device_id, state, shares, error)
        else:
            self._store.save_written(device_id, wanted)

    def _leave_alone(
        self, device_id: str, state: _State, shares: Mapping[str, Json], error: HubError
    ) -> None:
        """Let a twin without room keep what it has: it is changed as a whole or not at all."""
        statuses = _statuses(shares, state.written)
        if statuses != state.statuses:
            logger.warning("configurations cannot be written to %s: %s", device_id, error.message)
            self._twins.configure(device_id, {}, (), statuses)

    def _states(self, device_ids: list[str]) -> Iterator[tuple[str, _State]]:
        written = self._store.written(device_ids)
        rows = self._database.connection.execute(
            "SELECT device_id, desired, configurations FROM devices "
            "WHERE device_id IN (SELECT value FROM json_each(?))",
            (dumps(device_ids),),
        ).fetchall()
        for device_id, desired, statuses in rows:
            yield (
                device_id,
                _State(json.loads(desired), json.loads(statuses), written.get(device_id, {})),
            )

    def _custom(self, configuration: Configuration) -> dict[str, int]:
        counts = {}
        for metric, text in configuration.specification.metrics.items():
            try:
                counts[metric] = self._count(text)
            except HubError as error:
                name = configuration.configuration_id
                logger.warning("metric %s of %s has no count: %s", metric, name, error.message)
        return counts

    def _count(self, text: str) -> int:
        count, continuation = 0, None
        while True:
            page = query.run(
                self._database, text, page_size=query.MAX_PAGE, continuation=continuation
            )
            count += len(page.items)
            continuation = page.continuation
            if continuation is None:
                return count


class _Plan:
    """Which configurations target which devices, and what each of them may write there."""

    def __init__(
        self, configurations: Mapping[str, Configuration], targets: Mapping[str, list[str]]
    ) -> None:
        self._configurations = configurations
        self._by_device: dict[str, list[str]] = {}
        # The strongest first; each device gets its configurations in this order.
        for name in sorted(targets, key=lambda one: configurations[one].rank, reverse=True):
            for device_id in targets[name]:
                self._by_device.setdefault(device_id, []).append(name)
        # Most devices have the same rivals.
        self._share_out = lru_cache(maxsize=None)(self._share_out_uncached)

    @property
    def device_ids(self) -> list[str]:
        return list(self._by_device)

    def shares(self, device_id: str) -> dict[str, Json]:
        return self._share_out(tuple(self._by_device.get(device_id, ())))

    def _share_out_uncached(self, names: tuple[str, ...]) -> dict[str, Json]:
        return share_out((name, self._configurations[name].specification.values) for name in names)

    def writers(self, wanted: Mapping[str, Json]) -> list[Writer]:
        """Return who writes what, the strongest last."""
        return [
            Writer(name, self._configurations[name].specification.digest, wanted[name])
            for name in reversed(list(wanted))
        ]


def _statuses(shares: Mapping[str, Json], written: Mapping[str, Json]) -> Json:
    return {name: {"status": APPLIED if name in written else TARGETED} for name in shares}
