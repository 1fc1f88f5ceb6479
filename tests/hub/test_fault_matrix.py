"""Every fault at every stage it can hit: what becomes of the update, and what is left of it.

What must come of a fault is said in tables, from what `contract`, `LinkPolicy`, `RETRY_RULES` and
the docstrings of the faults promise. Each case has a device, a board and a service of its own, and
ends with another update of the same device and a look at what the processes hold.
"""

from __future__ import annotations

import gc
import re
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path

import pytest

from fwupdate_helpers import contract
from fwupdate_helpers.errors import (
    DeviceIdInUse,
    DeviceOffline,
    HubRequestError,
    HubThrottled,
    HubUnauthorized,
    UpdateTimeout,
)
from fwupdate_helpers.faults import STAGES, Fault
from fwupdate_helpers.reported import read_stages
from fwupdate_helpers.retries import RetryPolicy
from fwupdate_helpers.service import cancel_firmware_update
from tests.fault_bench import (
    BOUND,
    COMPLETES,
    KINDS,
    SIZE,
    Bench,
    End,
    Images,
    Json,
    nothing_left,
)
from tests.images import hub_of
from tests.raw_mqtt import RawDevice, publish
from tests.rest import wait_for
from tests.support import HubProcess

Arrange = Callable[[Bench], Fault]


def failed(code: str) -> End:
    return End(contract.ERROR, code)


def rolled_back(code: str) -> End:
    return End(contract.ROLLED_BACK, code)


@pytest.fixture(scope="module")
def images(hub_process: HubProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Images]:
    folder = tmp_path_factory.mktemp("matrix")
    with hub_of(hub_process) as hub:
        images = Images(hub, folder)
    # What all clients of a process share, the SDK's two threads for example, is there from now on.
    bench = Bench(hub_process, images, folder=folder / "board", name="matrix-warm-up")
    bench.start()
    bench.check_next()
    bench.close()
    gc.collect()
    gc.freeze()  # each case collects garbage: its own, not that of the whole test run
    yield images
    gc.unfreeze()


def temporary_folder(folder: Path, patch: pytest.MonkeyPatch) -> Path:
    """Let temporary files go into a folder of their own, and return it."""
    folder /= "temporary"
    folder.mkdir()
    patch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def bench(
    hub_process: HubProcess,
    images: Images,
    tmp_path: Path,
    device_id: str,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Bench]:
    with nothing_left(hub_process, temporary_folder(tmp_path, monkeypatch)):
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
    "dropped and kept off": lambda stage: drops(stage, 0.2),
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


@pytest.mark.parametrize("keep_off", [0.0, 0.2], ids=["dropped", "dropped and kept off"])
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


def test_a_line_on_which_no_connection_lasts_is_no_second_client_and_the_update_goes_on(
    bench: Bench,
) -> None:
    bench.start(link={"evictions": 3})
    with (
        bench.faults.slow_download(30_000),
        bench.faults.drop_connection(bench.device_id, every=(0.05, 0.1)),
    ):
        update_id = bench.order(connect_timeout=20)
        assert bench.device.events.wait_for("unsteady", timeout=BOUND)
    bench.check_end(update_id)
    assert bench.device.error is None
    bench.check_next()


def test_a_second_client_that_writes_the_twin_ends_the_device_and_not_the_update(
    bench: Bench, hub_process: HubProcess
) -> None:
    bench.start(link={"evictions": 3})
    key = str.__str__(bench.hub.device_connection_string(bench.device_id)).partition("Key=")[2]
    with bench.faults.slow_download(30_000):
        update_id = bench.order()
        wait_for(lambda: not take_over(hub_process, bench, key).device.is_running, seconds=BOUND)
        assert isinstance(bench.device.error, DeviceIdInUse)
        assert contract.OUTCOME not in bench.twin[contract.UPDATE]
        with pytest.raises(DeviceOffline):
            bench.invoke()
    bench.device.start()
    twin = bench.check_end(update_id)
    assert twin[contract.UPDATE][contract.RECOVERY]["action"] == contract.RESUMED
    bench.check_next()


def take_over(hub: HubProcess, bench: Bench, key: str) -> Bench:
    """Take the connection from the device, write its twin, and leave when it is taken back."""
    patches = "$iothub/twin/PATCH/properties/reported/?$rid=1"
    with RawDevice(hub, bench.device_id, key) as rival, suppress(ConnectionError):
        rival.connected()
        rival.send(publish(patches, b'{"rival":null}', packet_id=1))
        while bench.device.is_running:
            rival.is_silent(0.05)
    return bench


# -- downloads -----------------------------------------------------------------------------------

SOME = 16 * 1024


def cuts(after: int, *, times: int | None, reset: bool) -> Arrange:
    return lambda bench: bench.faults.cut_download(after, times=times, reset=reset)


def corrupts(at: int | None) -> Arrange:
    return lambda bench: bench.faults.corrupt_image(at=at, count=1)


DOWNLOADS: dict[str, tuple[Arrange, int | None, End]] = {
    **{
        f"{how}{often}": (
            cuts(after, times=times, reset=reset),
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
            corrupts(at),
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


SLOW: dict[str, tuple[int, Json, End]] = {
    "in time": (300_000, {}, COMPLETES),
    "too slow": (10_000, {"total_seconds": 0.5}, failed(contract.CODE_DOWNLOAD_FAILED)),
}


@pytest.mark.parametrize("name", SLOW)
def test_a_slow_download_ends_as_the_devices_patience_says(bench: Bench, name: str) -> None:
    speed, limits, end = SLOW[name]
    bench.start(download=limits)
    with bench.faults.slow_download(speed):
        twin = bench.check_end(bench.order(), end)
    stages = {stage.name: stage for stage in read_stages(twin)}
    assert (stages[contract.DOWNLOADING].seconds or 0) > 0.1, "it was slow indeed"
    bench.check_next()


# -- calls of the service ------------------------------------------------------------------------


class Waits:
    """A clock that only `RetryPolicy` goes by, and that its waits move."""

    def __init__(self, attempts: int = 8) -> None:
        self.now, self.seconds = 0.0, list[float]()
        self.policy = RetryPolicy(
            attempts=attempts, random=lambda: 0.5, clock=lambda: self.now, sleep=self._sleep
        )

    def _sleep(self, seconds: float) -> None:
        self.seconds.append(seconds)
        self.now += seconds


REFUSALS = {429: (HubThrottled, 429001), 503: (HubRequestError, 503001)}
"""The error of the service, and IoT Hub's code in it."""


def refuse(bench: Bench, status: int, kind: str, retry_after: int | None, count: int) -> Fault:
    return bench.faults.refuse_service_calls(
        status, kinds=[kind], retry_after=retry_after, count=count, device_id=bench.device_id
    )


@pytest.mark.parametrize("retry_after", [None, 7])
@pytest.mark.parametrize("kind", ["methods", "twin"])
@pytest.mark.parametrize("status", REFUSALS)
def test_refused_calls_are_made_again_and_change_no_end(
    bench: Bench, status: int, kind: str, retry_after: int | None
) -> None:
    waits = Waits()
    bench.start()
    fault = refuse(bench, status, kind, retry_after, count=3)
    bench.check_end(bench.order(policy=waits.policy), policy=waits.policy)
    bench.check_acted(fault, 3)
    assert [retry.cause for retry in bench.retries] == [REFUSALS[status][1]] * 3
    back_off = [0.125, 0.25, 0.5]  # half of the longest, as the policy draws here
    assert waits.seconds == [wait + (retry_after or 0) for wait in back_off]
    bench.check_next()


@pytest.mark.parametrize("retry_after", [None, 7])
@pytest.mark.parametrize("kind", ["methods", "twin"])
@pytest.mark.parametrize("status", REFUSALS)
def test_calls_that_are_refused_to_the_last_try_tell_why(
    bench: Bench, status: int, kind: str, retry_after: int | None
) -> None:
    waits, (error, code) = Waits(attempts=3), REFUSALS[status]
    bench.start()
    fault = refuse(bench, status, kind, retry_after, count=3)
    update_id = f"refused-{status}"
    with pytest.raises(error) as refused:
        bench.order(policy=waits.policy, update_id=update_id)
        bench.end_of(update_id, waits.policy)
    told = refused.value
    assert (told.status, told.code, told.retry_after) == (status, code, retry_after)
    assert (told.attempts, type(told)) == (3, error)
    bench.check_acted(fault, 3)
    if kind == "methods":  # nothing has begun
        assert contract.UPDATE not in bench.twin
        assert bench.order(update_id=update_id) == update_id
    bench.check_end(update_id)
    bench.check_next()


# -- answers of the device -----------------------------------------------------------------------

HEARS_NOTHING = 5
"""Seconds: the shortest time that IoT Hub lets a service wait for an answer."""
NO_RETRY = RetryPolicy.none()


def test_an_answer_that_comes_late_is_an_answer(bench: Bench) -> None:
    bench.start()
    fault = bench.faults.delay_method_responses(bench.device_id, 0.3)
    update = bench.invoke()
    assert (update.status, update.resolved_from_twin) == (200, False)
    bench.check_end(update.update_id)
    bench.check_acted(fault)
    bench.check_next()


def swallow(bench: Bench) -> Fault:
    return bench.faults.swallow_method_responses(bench.device_id)


def delay_too_long(bench: Bench) -> Fault:
    return bench.faults.delay_method_responses(bench.device_id, HEARS_NOTHING + 1)


def found_in_the_twin(bench: Bench, arrange: Arrange) -> None:
    fault = arrange(bench)
    update = bench.invoke(response_timeout=HEARS_NOTHING)
    assert (update.status, update.resolved_from_twin) == (200, True)
    assert [retry.cause for retry in bench.retries] == [504101]
    bench.check_end(update.update_id)
    bench.check_acted(fault)


def told_as_unknown(bench: Bench, arrange: Arrange) -> None:
    fault = arrange(bench)
    with pytest.raises(UpdateTimeout) as unknown:
        bench.invoke(update_id="unheard", response_timeout=HEARS_NOTHING, policy=NO_RETRY)
    assert (unknown.value.code, unknown.value.attempts) == (504101, 1)
    bench.check_end("unheard")
    bench.check_acted(fault)


def cancelled_unheard(bench: Bench, arrange: Arrange) -> None:
    with bench.faults.slow_download(10_000, image=bench.uris["good"]):
        update_id = bench.order()
        assert bench.device.events.wait_for("downloading", timeout=BOUND)
        fault = arrange(bench)
        answer = cancel_firmware_update(
            bench.hub.registry, bench.device_id, update_id, response_timeout=HEARS_NOTHING
        )
        assert answer == contract.RESPONSE_CANCELLED
        bench.check_end(update_id, failed(contract.CODE_CANCELLED))
    bench.check_acted(fault)


def power_lost_before_the_answer(bench: Bench, arrange: Arrange) -> None:
    bench.device.cut_power_at(contract.WAITING)
    update = bench.invoke(response_timeout=HEARS_NOTHING)
    assert update.resolved_from_twin
    assert not bench.device.is_running
    bench.device.start()
    twin = bench.check_end(update.update_id)
    assert twin[contract.UPDATE][contract.RECOVERY]["action"] == contract.RESUMED


UNHEARD: dict[str, tuple[Callable[[Bench, Arrange], None], Arrange]] = {
    "swallowed": (found_in_the_twin, swallow),
    "swallowed, no retries": (told_as_unknown, swallow),
    "too late": (found_in_the_twin, delay_too_long),
    "too late, no retries": (told_as_unknown, delay_too_long),
    "of a cancellation, swallowed": (cancelled_unheard, swallow),
    "power cut at waiting": (power_lost_before_the_answer, swallow),
}


@pytest.fixture(scope="module")
def unheard(
    hub_process: HubProcess, images: Images, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Future[None]]:
    """Play all of them side by side: each waits for the service's time limit."""
    folder = tmp_path_factory.mktemp("unheard")

    def play(name: str) -> None:
        bench = Bench(
            hub_process, images, folder=folder / name, name="-".join(re.findall(r"\w+", name))
        )
        try:
            bench.start()
            story, arrange = UNHEARD[name]
            story(bench, arrange)
            bench.check_next()
        finally:
            bench.close()
        bench.check_flash()

    with (
        pytest.MonkeyPatch.context() as patch,
        nothing_left(hub_process, temporary_folder(folder, patch)),
        ThreadPoolExecutor(len(UNHEARD)) as pool,
    ):
        futures = {name: pool.submit(play, name) for name in UNHEARD}
        wait(futures.values())
    return futures


@pytest.mark.parametrize("name", UNHEARD)
def test_an_answer_that_is_not_heard_leaves_the_twin_to_tell(
    unheard: dict[str, Future[None]], name: str
) -> None:
    unheard[name].result(timeout=0)


# -- the device's hardware -----------------------------------------------------------------------


@pytest.mark.parametrize("stage", [one for one in contract.STAGES if one != contract.WAITING])
def test_an_update_goes_on_after_a_power_cut(bench: Bench, stage: str) -> None:
    bench.start().cut_power_at(stage)
    update_id = bench.order()
    wait_for(lambda: not bench.device.is_running, seconds=BOUND)
    assert contract.open_stage(bench.twin) == stage
    with pytest.raises(DeviceOffline):
        bench.invoke("next")
    bench.device.start()
    twin = bench.check_end(update_id)
    assert twin[contract.UPDATE][contract.RECOVERY]["action"] == contract.RESUMED
    bench.check_next()


def test_a_power_cut_while_new_firmware_is_on_trial_leads_back_to_the_old_one(
    bench: Bench,
) -> None:
    bench.start()
    with bench.faults.drop_connection(bench.device_id, at=contract.REBOOTING, keep_off=BOUND):
        update_id = bench.order()
        assert bench.device.events.wait_for("disconnected", timeout=BOUND)
        wait_for(lambda: has_booted(bench, KINDS["good"]["version"]), seconds=BOUND)
        bench.device.power_cut()
    bench.device.start()
    twin = bench.check_end(update_id, rolled_back(contract.CODE_NOT_CONFIRMED))
    assert twin[contract.UPDATE][contract.RECOVERY]["action"] == contract.ROLLED_BACK_ACTION
    bench.check_next()


def has_booted(bench: Bench, version: str) -> bool:
    booted = (event.text for event in bench.device.events if event.kind == "booted")
    return any(version in text for text in booted)


FIRMWARE = {
    "fails its self-test": rolled_back(contract.CODE_SELF_TEST),
    "hangs": rolled_back(contract.CODE_NOT_CONFIRMED),
}


@pytest.mark.parametrize("image", FIRMWARE)
def test_firmware_that_does_not_work_is_rolled_back(bench: Bench, image: str) -> None:
    bench.start()
    bench.check_end(bench.order(image), FIRMWARE[image], image=image)
    bench.check_next()


def test_a_hang_while_applying_is_ended_by_the_watchdog(bench: Bench) -> None:
    bench.start().faults.hang_while_applying()
    twin = bench.check_end(bench.order(), failed(contract.CODE_WATCHDOG))
    ended = read_stages(twin)[-1]
    assert ended.name == contract.APPLYING
    bench.check_next()


FULL: dict[str, tuple[int, End, str]] = {
    contract.WAITING: (0, failed(contract.CODE_DISK_FULL), contract.DOWNLOADING),
    contract.DOWNLOADING: (SIZE // 2, failed(contract.CODE_DISK_FULL), contract.DOWNLOADING),
    contract.VERIFYING: (0, failed(contract.CODE_DISK_FULL), contract.APPLYING),
    contract.APPLYING: (SIZE + SIZE // 2, failed(contract.CODE_DISK_FULL), contract.APPLYING),
    contract.REBOOTING: (0, COMPLETES, contract.REBOOTING),
}
"""When the flash is filled, how much it leaves, the end, and the stage that it comes in."""


@pytest.mark.parametrize("stage", FULL)
def test_a_flash_that_is_full_fails_the_stage_that_needs_it(bench: Bench, stage: str) -> None:
    leave, end, last = FULL[stage]
    bench.start()
    if stage in (contract.VERIFYING, contract.REBOOTING):
        # An acknowledgement that does not come holds the update up where the stage begins.
        fault = bench.faults.lose_acknowledgement(bench.device_id, at=stage)
        update_id = bench.order()
        wait_for(lambda: fault.refresh().acted == 1)
        bench.board.fill(leave=leave)
    else:
        bench.board.fill(leave=leave)
        update_id = bench.order()
    twin = bench.check_end(update_id, end)
    assert read_stages(twin)[-1].name == last
    bench.board.free_up()
    bench.check_next()


DAY = 24 * 3600.0


@pytest.mark.parametrize("offset", [-90.0, 90.0, 2 * DAY])
def test_a_clock_that_is_wrong_and_still_let_in_shows_in_the_twin_alone(
    bench: Bench, offset: float
) -> None:
    bench.make().faults.clock_offset = offset
    bench.device.start()
    twin = bench.check_end(bench.order())
    began = read_stages(twin)[0].started_at - datetime.now(timezone.utc)
    assert abs(began.total_seconds() - offset) < BOUND
    bench.device.faults.clear()
    bench.check_next()


def test_a_clock_that_is_hours_slow_keeps_the_device_out_until_it_is_set(bench: Bench) -> None:
    bench.make().faults.clock_offset = -2 * DAY
    with pytest.raises(HubUnauthorized, match="clock"):
        bench.device.start()
    with pytest.raises(DeviceOffline):
        bench.invoke()
    bench.device.faults.clear()
    bench.device.start()
    bench.check_end(bench.order())
    bench.check_next()


@pytest.mark.parametrize("stage", [contract.DOWNLOADING, contract.REBOOTING])
def test_a_power_cut_that_also_resets_the_clock_leaves_the_update_to_go_on(
    bench: Bench, stage: str
) -> None:
    bench.start().cut_power_at(stage)
    update_id = bench.order()
    wait_for(lambda: not bench.device.is_running, seconds=BOUND)
    bench.device.faults.clock_offset = -2 * DAY
    with pytest.raises(HubUnauthorized):
        bench.device.start()
    assert contract.open_stage(bench.twin) == stage, "nothing has been said, and nothing is lost"
    bench.device.faults.clear()
    bench.device.start()
    bench.check_end(update_id)
    bench.check_next()
