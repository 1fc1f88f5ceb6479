"""Every fault at every stage it can hit: what becomes of the update, and what is left of it.

What must come of a fault is said in tables, from what `contract`, `LinkPolicy`, `RETRY_RULES` and
the docstrings of the faults promise. Each case has a device, a board and a service of its own, and
ends with another update of the same device and a look at what the processes hold.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fwupdate_helpers import contract
from fwupdate_helpers.errors import DeviceIdInUse, DeviceOffline
from fwupdate_helpers.faults import STAGES, Fault
from tests.fault_bench import (
    BOUND,
    COMPLETES,
    Bench,
    End,
    Images,
    Json,
    nothing_left,
)
from tests.images import hub_of
from tests.rest import wait_for
from tests.support import HubProcess

Arrange = Callable[[Bench], Fault]


def failed(code: str) -> End:
    return End(contract.ERROR, code)


def rolled_back(code: str) -> End:
    return End(contract.ROLLED_BACK, code)


@pytest.fixture(scope="module")
def images(hub_process: HubProcess, tmp_path_factory: pytest.TempPathFactory) -> Images:
    folder = tmp_path_factory.mktemp("matrix")
    with hub_of(hub_process) as hub:
        images = Images(hub, folder)
    # What all clients of a process share, the SDK's two threads for example, is there from now on.
    bench = Bench(hub_process, images, folder=folder / "board", name="matrix-warm-up")
    bench.start()
    bench.check_next()
    bench.close()
    return images


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def bench(
    hub_process: HubProcess, images: Images, temporary: Path, tmp_path: Path, device_id: str
) -> Iterator[Bench]:
    with nothing_left(hub_process, temporary):
        bench = Bench(hub_process, images, folder=tmp_path / "board", name=device_id)
        try:
            yield bench
        finally:
            bench.close()
        bench.check_flash()


# -- the way between the device and the hub ------------------------------------------------------

IMAGE_THAT_ENDS = {contract.ERROR: "damaged", contract.ROLLED_BACK: "fails its self-test"}
"""Which image leads to a stage; all others are on the way of a good one."""
ENDS = {
    "good": COMPLETES,
    "damaged": failed(contract.CODE_HASH_MISMATCH),
    "fails its self-test": rolled_back(contract.CODE_SELF_TEST),
}


def drops(stage: str, keep_off: float) -> Arrange:
    return lambda bench: bench.faults.drop_connection(bench.device_id, at=stage, keep_off=keep_off)


def loses(stage: str, *, puback: bool) -> Arrange:
    return lambda bench: bench.faults.lose_acknowledgement(bench.device_id, at=stage, puback=puback)


ON_THE_WAY: dict[str, Callable[[str], Arrange]] = {
    "dropped": lambda stage: drops(stage, 0),
    "dropped and kept off": lambda stage: drops(stage, 0.3),
    "acknowledgement lost": lambda stage: loses(stage, puback=True),
    "acknowledgement and PUBACK lost": lambda stage: loses(stage, puback=False),
}


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("fault", ON_THE_WAY)
def test_a_report_that_costs_the_connection_or_its_answer_changes_no_end(
    bench: Bench, fault: str, stage: str
) -> None:
    image = IMAGE_THAT_ENDS.get(stage, "good")
    bench.start()
    active = ON_THE_WAY[fault](stage)(bench)
    bench.check_end(bench.order(image), ENDS[image], image=image)
    wait_for(lambda: not active.refresh().is_active)
    bench.check_acted(active)
    bench.check_next()


@pytest.mark.parametrize("keep_off", [0.0, 0.3], ids=["dropped", "dropped and kept off"])
def test_a_connection_that_ends_within_the_download_changes_no_end(
    bench: Bench, keep_off: float
) -> None:
    bench.start()
    with bench.faults.slow_download(300_000):
        update_id = bench.order()
        assert bench.device.events.wait_for("downloading", timeout=BOUND)
        active = bench.faults.drop_connection(bench.device_id, keep_off=keep_off)
        bench.check_end(update_id)
    wait_for(lambda: not active.refresh().is_active)
    bench.check_acted(active)
    bench.check_next()


def test_a_device_that_is_kept_off_is_offline_for_the_service_and_then_updates(
    bench: Bench,
) -> None:
    bench.start()
    with bench.faults.drop_connection(bench.device_id, keep_off=BOUND):
        with pytest.raises(DeviceOffline):
            bench.invoke()
        assert bench.twin[contract.STATUS] == contract.STAND_BY
    bench.check_end(bench.order(connect_timeout=20))
    bench.check_next()


def test_new_firmware_that_does_not_reach_the_hub_in_its_time_is_rolled_back(bench: Bench) -> None:
    bench.start(link={"trial_seconds": 0.3})
    active = bench.faults.drop_connection(bench.device_id, at=contract.REBOOTING, keep_off=1.0)
    end = rolled_back(contract.CODE_NOT_CONFIRMED)
    bench.check_end(bench.order(), end)
    wait_for(lambda: not active.refresh().is_active)
    bench.check_acted(active)
    bench.check_next()


def test_a_connection_that_is_taken_again_and_again_ends_the_device_and_not_the_update(
    bench: Bench,
) -> None:
    bench.start(link={"evictions": 3})
    with (
        bench.faults.slow_download(30_000),
        bench.faults.drop_connection(bench.device_id, every=(0.05, 0.1)),
    ):
        update_id = bench.order(connect_timeout=20)
        wait_for(lambda: not bench.device.is_running, seconds=BOUND)
        assert isinstance(bench.device.error, DeviceIdInUse)
        assert contract.OUTCOME not in bench.twin[contract.UPDATE]
        with pytest.raises(DeviceOffline):
            bench.invoke()
    bench.device.start()
    twin = bench.check_end(update_id)
    assert twin[contract.UPDATE][contract.RECOVERY]["action"] == contract.RESUMED
    bench.check_next()


# -- downloads -----------------------------------------------------------------------------------

SOME, ALL = 16 * 1024, 0
DOWNLOADS: dict[str, tuple[Arrange, int | None, End]] = {
    **{
        f"{how}{often}": (
            lambda bench, after=after, times=times, reset=reset: bench.faults.cut_download(
                after, times=times, reset=reset
            ),
            times,
            end,
        )
        for how, reset in (("closed", False), ("reset", True))
        for often, after, times, end in (
            (" before the first byte, once", 0, 1, COMPLETES),
            (" after some bytes, once", SOME, 1, COMPLETES),
            (" after some bytes, always", SOME, None, COMPLETES),
            (" before the first byte, always", 0, None, failed(contract.CODE_DOWNLOAD_FAILED)),
        )
    },
    **{
        f"corrupt in the {part}": (
            lambda bench, at=at: bench.faults.corrupt_image(at=at, count=1),
            1,
            failed(code),
        )
        for part, at, code in (
            ("magic", 0, contract.CODE_NOT_AN_IMAGE),
            ("manifest", 40, contract.CODE_BAD_SIGNATURE),
            ("firmware", None, contract.CODE_HASH_MISMATCH),
        )
    },
}
"""The fault, how often it acts (None: until it is cleared), and the end of the update."""


@pytest.mark.parametrize("name", DOWNLOADS)
def test_a_download_that_is_cut_or_corrupt_ends_as_the_table_says(bench: Bench, name: str) -> None:
    arrange, times, end = DOWNLOADS[name]
    bench.start()
    active = arrange(bench)
    bench.check_end(bench.order(), end)
    if times is None:
        assert active.refresh().acted >= 3
        active.clear()
    else:
        bench.check_acted(active, times)
    if end != COMPLETES:  # the fault is over, and a new order of the same image is fine
        bench.check_end(bench.order())
    bench.check_next()


SLOW = {
    "in time": (300_000, {}, COMPLETES),
    "too slow": (10_000, {"total_seconds": 0.5}, failed(contract.CODE_DOWNLOAD_FAILED)),
}


@pytest.mark.parametrize("name", SLOW)
def test_a_slow_download_ends_as_the_devices_patience_says(bench: Bench, name: str) -> None:
    speed, limits, end = SLOW[name]
    bench.start(download=limits)
    with bench.faults.slow_download(speed):
        twin = bench.check_end(bench.order(), end)
    times = twin[contract.UPDATE][contract.STAGES_KEY][contract.DOWNLOADING]
    took = contract_seconds(times)
    assert took > 0.1, "it was slow indeed"
    bench.device.stop()
    bench.start()
    bench.check_next()


def contract_seconds(times: Json) -> float:
    from fwupdate_helpers.reported import parse_time

    began, ended = (parse_time(times[key]) for key in (contract.STARTED_AT, contract.ENDED_AT))
    assert began and ended
    return (ended - began).total_seconds()
