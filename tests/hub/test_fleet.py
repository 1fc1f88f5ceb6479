"""A fleet on a real hub: its workers, its devices, some of them off, all of them deleted."""

from __future__ import annotations

import os
import signal
import sys
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from azure.iot.hub.models import Twin

from fwupdate_helpers import Fleet, contract
from fwupdate_helpers.errors import DeviceOffline, FleetNotStarted
from fwupdate_helpers.firmware import publish_image
from fwupdate_helpers.fleet.identities import create_identities, find_identities
from fwupdate_helpers.hub import Hub
from fwupdate_helpers.service import invoke_firmware_update
from tests.fleet_processes import owner, told, update_all, wait_for_end
from tests.images import PUBLISHER, hub_of
from tests.rest import wait_for
from tests.support import HubProcess, device_connection_string, reported

SIZE = 24
posix = pytest.mark.skipif(sys.platform == "win32", reason="signals of a process group")


@pytest.fixture(scope="module")
def hub(hub_process: HubProcess) -> Iterator[Hub]:
    """Return the client side of the tests' hub."""
    with hub_of(hub_process) as one:
        yield one


@pytest.fixture(scope="module")
def fleet(hub: Hub) -> Iterator[Fleet]:
    """Return a fleet that runs in two workers; a test leaves all its devices on."""
    options: dict[str, Any] = {"seed": 7, "per_worker": SIZE // 2, "stage_seconds": 0.0}
    tags = lambda profile: {"floor": profile.index % 3}  # noqa: E731
    with Fleet(
        hub, SIZE, name=name(), tags=tags, signing_key=PUBLISHER, speeds=(None,), **options
    ) as one:
        yield one


def name() -> str:
    """Return a name that no other fleet has."""
    return f"fleet-{uuid.uuid4().hex[:8]}"


def small(hub: Hub, size: int = 2, **options: Any) -> Fleet:
    """Return a fleet of its own for one test."""
    return Fleet(hub, size, **{"name": name(), "stage_seconds": 0.0, **options})


def connected(hub: Hub, device_ids: list[str]) -> set[str]:
    """Return those devices that are connected, as the hub sees it."""
    found = (hub.registry.get_device(one) for one in device_ids)
    return {one.device_id for one in found if one.connection_state == "Connected"}


def worker_pids(fleet: Fleet) -> list[int]:
    return [worker.process.pid for worker in fleet._workers if worker.process]


def test_every_device_is_connected_with_the_tags_and_the_firmware_of_its_profile(
    hub: Hub, fleet: Fleet
) -> None:
    assert set(fleet.states().values()) == {"online"}
    assert connected(hub, fleet.device_ids) == set(fleet.device_ids)
    for profile in fleet.profiles:
        twin = hub.registry.get_twin(profile.device_id)
        assert twin.tags == {
            "fleet": fleet.name,
            "model": profile.model,
            "site": profile.site,
            "floor": profile.index % 3,
            **hub.kit_tags,
        }
        firmware = twin.properties.reported[contract.FIRMWARE]
        assert firmware[contract.CURRENT_VERSION] == profile.version
    assert repr(fleet) == f"Fleet({fleet.name!r}, {SIZE} devices: {SIZE} online)"


def test_the_devices_are_shared_out_and_no_key_is_on_a_command_line_or_in_an_environment(
    fleet: Fleet,
) -> None:
    workers = [psutil.Process(pid) for pid in worker_pids(fleet)]
    assert [len(worker.indices) for worker in fleet._workers] == [SIZE // 2, SIZE // 2]
    for worker in workers:
        seen = " ".join([*worker.cmdline(), *worker.environ().values()])
        assert "SharedAccessKey" not in seen and "fwupdate_helpers.fleet.worker" in seen


def test_all_devices_are_updated_at_once(hub: Hub, fleet: Fleet) -> None:
    outcomes = update_all(hub, fleet.device_ids)
    assert outcomes == dict.fromkeys(fleet.device_ids, "completed")


def test_devices_that_are_off_are_offline_and_come_back_with_the_firmware_they_had(
    hub: Hub, fleet: Fleet, tmp_path: Path
) -> None:
    off, on = fleet.device_ids[10:14], fleet.device_ids[:10] + fleet.device_ids[14:]
    fleet.build_image(tmp_path / "2.img", "2.0.0", size=20_000)
    uri = publish_image(hub, tmp_path / "2.img")
    assert set(update_all(hub, off, package_uri=uri).values()) == {"completed"}
    fleet.switch_off(off)
    states = fleet.states()
    assert {states[one] for one in off} == {"offline"}
    assert {states[one] for one in on} == {"online"}
    wait_for(lambda: connected(hub, fleet.device_ids) == set(on), seconds=60)
    with pytest.raises(DeviceOffline):
        invoke_firmware_update(hub.registry, off[0])
    fleet.switch_on(off)
    assert connected(hub, fleet.device_ids) == set(fleet.device_ids)
    for device_id in off:
        firmware = reported(hub.registry, device_id)[contract.FIRMWARE]
        assert firmware[contract.CURRENT_VERSION] == "2.0.0"


def test_a_device_of_another_fleet_is_not_switched(fleet: Fleet) -> None:
    with pytest.raises(ValueError, match="'other-0001' is no device of the fleet"):
        fleet.switch_off(["other-0001"])
    assert set(fleet.states().values()) == {"online"}


def test_what_goes_wrong_with_a_device_is_what_its_profile_says(hub: Hub, tmp_path: Path) -> None:
    fleet = small(
        hub,
        12,
        seed=5,
        per_worker=6,
        self_test_failures=0.25,
        hangs=0.25,
        power_losses=0.25,
        outage_seconds=0.1,
        watchdog_seconds=4.0,  # short, and more than a busy machine keeps a worker waiting
        speeds=(None,),
        signing_key=PUBLISHER,
    )
    fleet.build_image(tmp_path / "2.img", "2.0.0", size=20_000)
    with fleet:
        uri = publish_image(hub, tmp_path / "2.img")
        outcomes = update_all(hub, fleet.device_ids, package_uri=uri)
    for one in fleet.profiles:
        expected = "selfTestFailed" if one.fails_self_test else "completed"
        assert outcomes[one.device_id] == ("watchdogReset" if one.hangs else expected)
        told = reported(hub.registry, one.device_id)
        runs = told[contract.FIRMWARE][contract.CURRENT_VERSION]
        assert runs == ("2.0.0" if outcomes[one.device_id] == "completed" else one.version)
        recovered = told[contract.UPDATE].get(contract.RECOVERY, {}).get("action")
        assert (recovered is not None) == (one.loses_power_at is not None)
    kinds = {(one.fails_self_test, one.hangs, bool(one.loses_power_at)) for one in fleet.profiles}
    assert len(kinds) == 4, "the seed must draw a device of each kind"


def test_delete_takes_the_identities_of_this_fleet_and_no_others(
    hub: Hub, hub_process: HubProcess
) -> None:
    fleet = small(hub, 3)
    neighbours = [f"{fleet.name}-00000", f"{fleet.name}-0003", fleet.name]
    for neighbour in neighbours:
        device_connection_string(hub_process, neighbour)
    fleet.start()
    fleet.delete()
    fleet.delete()
    left = {one.device_id for one in hub.registry.get_devices(1000)}
    assert left.isdisjoint(fleet.device_ids)
    assert left.issuperset(neighbours)
    assert not fleet.is_running


def test_a_smaller_fleet_of_the_same_name_leaves_none_of_the_larger_one_behind(
    hub: Hub, hub_process: HubProcess
) -> None:
    larger = small(hub, 250, name=(own := name()))
    create_identities(hub, larger.profiles)  # as if its kernel had died
    neighbour = f"{larger.name}-other"
    device_connection_string(hub_process, neighbour)
    hub.registry.update_twin(neighbour, Twin(tags={"fleet": larger.name}))
    assert len(find_identities(hub, larger.name)) == 250
    with small(hub, 1, name=own) as smaller:
        assert find_identities(hub, larger.name) == smaller.device_ids
    create_identities(hub, larger.profiles)
    smaller.delete()
    assert find_identities(hub, larger.name) == []
    assert hub.registry.get_device(neighbour)


def test_a_second_run_of_the_cell_takes_the_place_of_the_first(hub: Hub) -> None:
    first = small(hub, name=(own := name())).start()
    pids = worker_pids(first)
    with small(hub, 3, name=own) as second:
        assert not first.is_running
        wait_for_end(pids)
        assert list(second.states().values()) == ["online"] * 3


def test_a_fleet_of_the_same_name_in_another_kernel_is_left_alone(
    hub: Hub, hub_process: HubProcess
) -> None:
    own = name()
    with small(hub, name=own) as fleet:
        code = """
from fwupdate_helpers.errors import FleetInUse
for act in (fleet.start, fleet.delete):
    try: act()
    except FleetInUse as error: tell(error=str(error), workers=workers())
"""
        with owner(hub_process, code, size=2, name=own) as other:
            for answer in (told(other), told(other)):
                assert "runs in another kernel" in answer["error"] and answer["workers"] == []
        assert connected(hub, fleet.device_ids) == set(fleet.device_ids)
    fleet.start()  # the name is free again, for the same object as well
    fleet.delete()


def test_the_fleet_ends_with_its_hub_and_with_the_object(hub_process: HubProcess) -> None:
    hub = hub_of(hub_process)
    fleet = small(hub).start()
    pids = worker_pids(fleet)
    hub.close()
    assert not fleet.is_running
    wait_for_end(pids)


def test_a_worker_that_dies_is_told_cleaned_away_and_replaced_by_the_next_start(hub: Hub) -> None:
    fleet = small(hub, 4, per_worker=2).start()
    dead, folder = fleet._workers[0], fleet._workers[0]._folder
    assert dead.process is not None and folder is not None and folder.exists()
    dead.process.kill()
    assert fleet._states.wait(dead.indices, ["failed"], silence=60)
    with pytest.raises(FleetNotStarted, match=r"2 of 4 devices failed.*worker process") as failed:
        fleet.switch_on(fleet.device_ids)
    assert set(failed.value.reasons) == set(fleet.device_ids[:2]) == set(fleet.failures())
    assert list(fleet.states().values()) == ["failed", "failed", "online", "online"]
    assert list(fleet.start().states().values()) == ["online"] * 4
    fleet.delete()
    assert not folder.exists()


def test_a_fleet_whose_devices_cannot_connect_tells_why_and_leaves_no_process(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = small(hub)
    before = set(psutil.Process().children(recursive=True))
    monkeypatch.setattr(Hub, "device_options", {})  # they trust the authorities of the world only
    with pytest.raises(FleetNotStarted, match=f"2 of 2 devices failed. The first is {fleet.name}"):
        fleet.start()
    assert set(psutil.Process().children(recursive=True)) <= before
    assert not fleet.is_running


@posix
def test_after_the_kernel_was_killed_no_process_and_no_folder_is_left(
    hub: Hub, hub_process: HubProcess
) -> None:
    code = """
fleet.start()
folders = [str(worker._folder) for worker in fleet._workers]
tell(workers=workers(), folders=folders, devices=fleet.device_ids)
signal.pause()
"""
    with owner(hub_process, code, size=4, per_worker=2, name=name()) as process:
        about = told(process)
        assert len(about["workers"]) == 2
        assert connected(hub, about["devices"]) == set(about["devices"])
        process.kill()
        wait_for_end(about["workers"])
    wait_for(lambda: not connected(hub, about["devices"]), seconds=60)
    assert not [folder for folder in about["folders"] if Path(folder).exists()]


@posix
def test_the_next_fleet_of_a_killed_kernel_waits_for_the_end_of_its_processes(
    hub: Hub, hub_process: HubProcess
) -> None:
    code = "fleet.start()\ntell(workers=workers())\nsignal.pause()\n"
    own_name = name()
    with owner(hub_process, code, size=4, per_worker=2, name=own_name) as process:
        old = [psutil.Process(pid) for pid in told(process)["workers"]]
        for worker in old:
            worker.suspend()  # as if its devices took their time to say goodbye
        process.kill()
        resumed = threading.Event()

        def go_on() -> None:
            resumed.set()
            for worker in old:
                worker.resume()

        threading.Timer(1.0, go_on).start()
        with Fleet(hub, 3, name=own_name, stage_seconds=0.0) as fleet:
            wait_for_end(worker.pid for worker in old)
            assert resumed.is_set()
            assert set(fleet.states().values()) == {"online"}
        fleet.delete()


@posix
def test_an_interrupt_stops_a_start_and_harms_no_fleet_that_runs(
    hub: Hub, hub_process: HubProcess
) -> None:
    code = """
put, once = fleet._states.put, {"online": True}
def put_and_interrupt(index, state, why=""):
    put(index, state, why)
    if once.pop(state, False):
        os.killpg(os.getpgid(0), signal.SIGINT)
fleet._states.put = put_and_interrupt
try:
    fleet.start()
    tell(started=True)
except KeyboardInterrupt:
    tell(running=fleet.is_running, states=list(fleet.states().values()))
fleet.start()
try:
    tell(workers=workers(), devices=fleet.device_ids)
    signal.pause()
except KeyboardInterrupt:
    fleet.switch_off(fleet.device_ids[:1])
    tell(states=list(fleet.states().values()))
fleet.delete()
"""
    with owner(hub_process, code, size=4, per_worker=2, name=name()) as process:
        assert told(process) == {"running": False, "states": ["offline"] * 4}
        about = told(process)
        assert connected(hub, about["devices"]) == set(about["devices"])
        os.killpg(process.pid, signal.SIGINT)  # to the group, as a notebook's interrupt goes
        assert told(process) == {"states": ["offline", *["online"] * 3]}
        _, errors = process.communicate(timeout=60)
        assert (process.returncode, errors) == (0, "")
    wait_for_end(about["workers"])
