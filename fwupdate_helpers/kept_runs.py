"""Keep the timeline of an update for another day, and for another hub.

Notebook 05 compares the local hub with Azure. The two runs may lie days and several kernels apart,
so the last one of each kind of hub lies in a small private file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from fwupdate_helpers import contract
from fwupdate_helpers.errors import FirmwareUpdateError
from fwupdate_helpers.localhub.errors import LocalHubError
from fwupdate_helpers.localhub.statedir import StateDir, read_json, write_json
from fwupdate_helpers.timeline import UpdateTimeline

if TYPE_CHECKING:
    from pathlib import Path

    from azure.iot.hub.models import Twin

    from fwupdate_helpers.hub import Hub

_NAMES: Final = {"local": "local hub", "azure": "Azure"}
_KEPT: Final = (
    contract.STATUS,
    contract.LOG_TIME,
    contract.DOWNLOAD_COMPLETE,
    contract.STARTED_APPLYING,
    contract.LAST_UPDATE,
    contract.UPDATE,
    "$metadata",
)
"""What a timeline is made of; nothing else of a twin is kept."""


@dataclass(frozen=True)
class KeptRun:
    """An update that has ended.

    Attributes:
        timeline: Its stages.
        numbers: What was measured with it, by name.
    """

    timeline: UpdateTimeline
    numbers: Mapping[str, float]


def keep_run(hub: Hub, twin: Twin, **numbers: float) -> None:
    """Keep an update; it takes the place of the last one on the same kind of hub.

    Numbers that were kept with that one and are not given now stay.

    Args:
        hub: Where it ran.
        twin: The device twin that tells of it.
        numbers: What else was measured.

    Raises:
        FirmwareUpdateError: The file cannot be written, or the twin tells of no update.

    Example:
        >>> keep_run(hub, twin, answer_seconds=0.02)  # doctest: +SKIP
    """
    reported = twin.properties.reported or {}
    content = {
        "deviceId": twin.device_id,
        "properties": {"reported": {key: reported[key] for key in _KEPT if key in reported}},
    }
    UpdateTimeline.from_twin(content)
    file = _file(hub.kind)
    before = _read(file)
    numbers = {**(before.numbers if before else {}), **numbers}
    try:
        StateDir.default().prepare()
        file.parent.mkdir(mode=0o700, exist_ok=True)
        write_json(file, {"twin": content, "numbers": numbers})
    except (LocalHubError, OSError) as error:
        raise FirmwareUpdateError(f"The run cannot be kept in {file}: {error}") from error


def kept_runs() -> dict[str, KeptRun]:
    """Return the last run on each kind of hub: of ``"local hub"`` and ``"Azure"`` those there are.

    Example:
        >>> plot_timelines({name: run.timeline for name, run in kept_runs().items()})
        ... # doctest: +SKIP
    """
    found = {name: _read(_file(kind)) for kind, name in _NAMES.items()}
    return {name: run for name, run in found.items() if run is not None}


def _file(kind: str) -> Path:
    return StateDir.default().path / "runs" / f"{kind}.json"


def _read(file: Path) -> KeptRun | None:
    content: dict[str, Any] = read_json(file) or {}
    try:
        timeline = UpdateTimeline.from_twin(content["twin"])
        return KeptRun(timeline, {name: float(n) for name, n in content["numbers"].items()})
    except (FirmwareUpdateError, LookupError, TypeError, ValueError, AttributeError):
        return None  # there is none, or somebody has edited it: the next run writes it anew


__all__ = ["KeptRun", "keep_run", "kept_runs"]
