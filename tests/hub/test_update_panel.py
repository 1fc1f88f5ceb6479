"""The update panel without a front end: real devices, a real hub, buttons pressed by the test."""

from __future__ import annotations

import base64
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ipywidgets
import pytest
from azure.iot.hub import IoTHubRegistryManager
from ipywidgets.widgets import widget as ipywidgets_registry

from fwupdate_helpers import UpdatePanel
from fwupdate_helpers.device import SimulatedDevice
from fwupdate_helpers.device.link_policy import LinkPolicy
from fwupdate_helpers.errors import UpdateTimeout
from fwupdate_helpers.firmware import DownloadPolicy
from fwupdate_helpers.hub import Hub
from fwupdate_helpers.retries import RetryPolicy
from fwupdate_helpers.service import invoke_firmware_update
from tests.images import SIZE, Publisher, hub_of
from tests.raw_mqtt import PUBLISH
from tests.rest import wait_for
from tests.support import HubProcess, run_python
from tests.unruly_mqtt import UnrulyMqtt

NewDevice = Callable[..., SimulatedDevice]
NewPanel = Callable[..., UpdatePanel]


@pytest.fixture
def hub(hub_process: HubProcess) -> Iterator[Hub]:
    with hub_of(hub_process) as hub:
        yield hub


@pytest.fixture
def panel_of(hub: Hub) -> Iterator[NewPanel]:
    made: list[UpdatePanel] = []

    def make_one(device: SimulatedDevice, **options: Any) -> UpdatePanel:
        made.append(UpdatePanel(hub, device, **{"interval": 0.05, **options}))
        return made[-1]

    yield make_one
    for panel in made:
        panel.close()


def panel_threads(device: SimulatedDevice) -> list[str]:
    name = f"panel-{device.device_id}"
    return [thread.name for thread in threading.enumerate() if thread.name.startswith(name)]


def shown(panel: UpdatePanel) -> str:
    """Everything that stands in the panel."""
    children = panel.widget.children
    return "\n".join(child.value for child in children if isinstance(child, ipywidgets.HTML))


def test_a_press_on_start_runs_an_update_to_its_end_in_words_bar_picture_and_log(
    make: NewDevice, panel_of: NewPanel
) -> None:
    panel = panel_of(make(stage_seconds=0.5).start())
    assert panel.wait_for("no update yet").text == "no update yet · 0 % · time left not known yet"
    assert "<img" not in shown(panel)
    panel.start_button.click()
    panel.wait_for("downloading")
    assert panel.start_button.disabled and not panel.cancel_button.disabled
    end = panel.wait_for("completed")
    assert end.text.startswith("completed in ") and " · 100 % · 0 s left · update " in end.text
    wait_for(lambda: 'alt="Update completed in' in shown(panel))
    wait_for(lambda: "Firmware update completed." in shown(panel))
    assert 'aria-valuenow="100"' in shown(panel)
    assert not panel.start_button.disabled and panel.cancel_button.disabled
    assert panel.error is None

    panel.start_button.click()
    again = panel.wait_for("completed")
    assert again.update_id != end.update_id, "each press is an update of its own"


def test_retries_are_told_and_are_marks_in_the_picture(
    hub: Hub, make: NewDevice, panel_of: NewPanel
) -> None:
    device = make(stage_seconds=0.1).start()
    panel = panel_of(device)
    panel.wait_for("no update yet")
    order = {"device_id": device.device_id, "kinds": ["methods"]}
    hub.faults.refuse_service_calls(429, retry_after=1, **order)
    panel.start_button.click()
    wait_for(lambda: "(429001): next try in" in shown(panel))
    assert len(panel.wait_for("completed").retries) == 1
    wait_for(lambda: "The service tried again once." in shown(panel))

    panel.start_button.click()
    assert panel.wait_for("completed").retries == (), "those of another press are gone"


def test_a_panel_that_is_closed_between_two_tries_starts_nothing_more(
    hub: Hub, make: NewDevice, panel_of: NewPanel
) -> None:
    device = make(stage_seconds=0.1).start()
    # A policy of the learner's own, too, tries no longer than the panel is open.
    panel = panel_of(device, order={"policy": RetryPolicy(attempts=3)})
    panel.wait_for("no update yet")
    order = {"device_id": device.device_id, "kinds": ["methods"]}
    hub.faults.refuse_service_calls(429, retry_after=60, **order)
    panel.start_button.click()
    wait_for(lambda: "(429001): next try in" in shown(panel))
    panel.close()
    assert panel_threads(device) == []


def calls_of(hub: Hub, device: SimulatedDevice) -> list[str]:
    """Return the direct methods that services have asked for."""
    rows = hub.trace(device.device_id, kinds=["methods"])
    return [row.what for row in rows if row.source == "service"]


def test_a_panel_that_is_closed_while_a_call_is_not_answered_leaves_no_thread(
    hub: Hub, make: NewDevice, panel_of: NewPanel
) -> None:
    device = make(stage_seconds=0.1).start()
    hub.faults.swallow_method_responses(device.device_id)
    panel = panel_of(device, order={"response_timeout": 90})
    panel.start_button.click()
    assert device.events.wait_for("starting", timeout=30)
    panel.close()
    assert panel_threads(device) == []
    assert len(calls_of(hub, device)) == 1, "the twin was not asked, and no call was made again"


def test_a_panel_that_is_closed_while_its_call_waits_for_the_device_starts_nothing(
    hub: Hub, make: NewDevice, panel_of: NewPanel, registry: IoTHubRegistryManager
) -> None:
    device = make(stage_seconds=0.1)
    panel = panel_of(device, order={"connect_timeout": 80, "response_timeout": 5})
    panel.start_button.click()
    wait_for(lambda: calls_of(hub, device) != [])
    panel.close()
    assert panel_threads(device) == []
    device.start()
    invoke_firmware_update(registry, device.device_id)  # a device that is busy would refuse it
    assert [event.kind for event in device.events].count("starting") == 1


def test_a_panel_that_is_closed_while_the_hub_hangs_leaves_no_thread(make: NewDevice) -> None:
    device = make().start()
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections, and says nothing
        key = base64.b64encode(b"key").decode()
        string = f"HostName=127.0.0.1:{silent.getsockname()[1]};SharedAccessKeyName=a"
        hub = Hub(kind="local", connection_string=f"{string};SharedAccessKey={key}")
        panel = UpdatePanel(hub, device, interval=0.05)
        panel.start_button.click()
        lines = [silent.accept()[0] for _ in range(2)]  # the one that watches, and the press
        panel.close()
        assert panel_threads(device) == []
        panel.start_button.click()
        assert panel_threads(device) == [], "a press on a closed panel does nothing"
        for line in lines:
            line.close()


def test_a_panel_that_is_closed_while_its_device_starts_lets_the_device_go_on(
    hub_process: HubProcess, hub: Hub, new_device: Callable[[str], str], device_id: str
) -> None:
    with UnrulyMqtt(hub_process) as line:
        lost = line.lose(PUBLISH, "$iothub/twin/res/", times=1000)  # so the start does not end
        device = SimulatedDevice(
            line.string(new_device(device_id)),
            stage_seconds=0.0,
            link_policy=LinkPolicy(answer_seconds=0.3, first_wait=0.05, start_seconds=60),
            server_verification_cert=line.ca_pem,
        )
        panel = UpdatePanel(hub, device, interval=0.05)
        panel.restart_button.click()
        wait_for(lambda: lost.lost > 0)
        panel.close()
        assert panel_threads(device) == [] and device.is_running
        assert "ready" not in [event.kind for event in device.events]
        lost.times = 0
        assert device.events.wait_for("ready", timeout=30)
        device.stop()


def test_whoever_waits_for_a_panel_that_is_closed_is_told_so(
    make: NewDevice, panel_of: NewPanel
) -> None:
    panel = panel_of(make())
    panel.wait_for("stopped")
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(panel.wait_for, "completed", timeout=600)
        panel.close()
        with pytest.raises(UpdateTimeout, match="The panel is closed and did not show 'completed'"):
            waiting.result(timeout=60)


def test_nothing_is_sent_or_drawn_while_nothing_changes(
    make: NewDevice, panel_of: NewPanel
) -> None:
    panel = panel_of(make().start())
    panel.start_button.click()
    panel.wait_for("completed")
    wait_for(lambda: 'alt="Update completed in' in shown(panel))
    wait_for(lambda: "Firmware update completed." in shown(panel))  # the device's last word
    changes: list[Any] = []
    for widget in (*panel.widget.children, panel.start_button, panel.cancel_button):
        widget.observe(changes.append)
    turns = iter(range(10))
    panel.wait_for(lambda view: next(turns, None) is None)
    assert changes == [], changes


def test_an_update_that_somebody_else_started_is_shown(
    make: NewDevice, panel_of: NewPanel, registry: IoTHubRegistryManager
) -> None:
    device = make(stage_seconds=0.2).start()
    panel = panel_of(device)
    panel.wait_for("no update yet")
    invoke_firmware_update(registry, device.device_id, update_id="from-elsewhere")
    panel.wait_for(lambda view: view.update_id == "from-elsewhere")
    assert panel.wait_for("completed").text.endswith("update from-elsewhere")


def test_a_power_cut_in_a_download_and_a_restart_end_in_a_resumed_update(
    make: NewDevice, panel_of: NewPanel, hub: Hub, tmp_path: Path
) -> None:
    publisher = Publisher(hub, tmp_path)
    policy = DownloadPolicy(bytes_per_second=SIZE / 2, sync_bytes=16 * 1024)
    device = make(board=publisher.board(), policy=policy).start()
    order = {"package_uri": publisher.publish("2.0.0"), "version": "2.0.0", "update_id": "unused"}
    panel = panel_of(device, order=order)
    panel.start_button.click()
    panel.wait_for(lambda view: view.state == "downloading" and view.percent > 15)
    panel.power_button.click()
    dark = panel.wait_for("no power")
    assert dark.text.startswith("device has no power · ") and dark.percent > 15
    assert [panel.power_button.disabled, panel.restart_button.disabled] == [True, False]
    panel.restart_button.click()
    end = panel.wait_for("completed")
    assert end.text.endswith(" · resumed")
    assert end.update_id not in (None, "unused")
    assert str(order["package_uri"]) not in shown(panel), "the address of the image is a secret"

    panel.start_button.click()
    assert "allow_downgrade=True" in panel.wait_for("completed").message.text


def test_cancel_ends_the_update_and_a_second_start_is_refused_with_words(
    make: NewDevice, panel_of: NewPanel
) -> None:
    panel = panel_of(make(stage_seconds=5.0).start())
    panel.start_button.click()
    running = panel.wait_for("waiting").update_id
    panel.start_button.click()
    refused = panel.wait_for("waiting")
    assert refused.message.is_error and "409" in refused.message.text
    assert "Wait for its end" in refused.message.text and refused.message.text in shown(panel)
    assert refused.update_id == running, "the update that runs is not disturbed"
    panel.cancel_button.click()
    assert panel.wait_for("cancelled").text.startswith("cancelled while waiting · ")
    panel.cancel_button.click()
    assert "No firmware update is running" in panel.wait_for("cancelled").message.text


def test_a_press_returns_at_once_however_long_the_work_takes(
    make: NewDevice, panel_of: NewPanel, monkeypatch: pytest.MonkeyPatch
) -> None:
    device, may_end = make().start(), threading.Event()
    monkeypatch.setattr(device, "power_cut", lambda: may_end.wait(30))
    panel = panel_of(device)
    panel.wait_for("no update yet")
    panel.power_button.click()
    with pytest.raises(UpdateTimeout, match="no update yet"):
        panel.wait_for("no update yet", timeout=0.1)  # the press is not worked off
    may_end.set()
    panel.wait_for("no update yet")


def test_an_error_in_a_handler_is_shown_without_what_it_may_tell(
    make: NewDevice, panel_of: NewPanel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise ValueError("SharedAccessKey=c2VjcmV0")

    device = make().start()
    monkeypatch.setattr(device, "power_cut", fail)
    panel = panel_of(device)
    panel.power_button.click()
    view = panel.wait_for("no update yet")
    assert view.message.is_error and "ValueError" in view.message.text
    assert "c2VjcmV0" not in shown(panel)
    assert isinstance(panel.error, ValueError)


def test_an_error_in_the_thread_is_shown_and_the_panel_goes_on(
    make: NewDevice, panel_of: NewPanel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> bytes:
        raise RuntimeError("no font")

    monkeypatch.setattr("fwupdate_helpers.widgets.picture.timeline_png", fail)
    panel = panel_of(make(stage_seconds=0.2).start())
    panel.start_button.click()
    assert panel.wait_for(lambda view: "RuntimeError" in view.message.text).message.is_error
    panel.wait_for("completed")


def test_a_second_panel_of_a_device_closes_the_first_and_other_devices_keep_theirs(
    make: NewDevice, panel_of: NewPanel, hub: Hub
) -> None:
    device = make(stage_seconds=0.2).start()
    string = hub.device_connection_string(f"{device.device_id}-2")
    with SimulatedDevice(string, stage_seconds=0.2, **hub.device_options) as other:
        neighbour = panel_of(other)
        first = panel_of(device)
        first.wait_for("no update yet")
        before = len(ipywidgets_registry._instances)
        second = panel_of(device)
        assert panel_threads(device).count(f"panel-{device.device_id}") == 1
        assert len(ipywidgets_registry._instances) == before, "nothing of the first is left"
        first.start_button.click()
        with pytest.raises(UpdateTimeout):
            first.wait_for("completed", timeout=5)
        second.start_button.click()
        neighbour.start_button.click()
        ends = [panel.wait_for("completed") for panel in (second, neighbour)]
        assert ends[0].update_id != ends[1].update_id
        for panel in (second, neighbour, first, second):
            panel.close()
        assert panel_threads(device) == panel_threads(other) == []


def test_a_hub_that_goes_away_and_returns_a_lost_identity_and_a_closed_hub_are_told(
    own_hub_process: HubProcess, device_id: str
) -> None:
    hub = hub_of(own_hub_process)
    string = hub.device_connection_string(device_id)
    with SimulatedDevice(string, stage_seconds=0.1, **hub.device_options) as device:
        panel = UpdatePanel(hub, device, interval=0.05)
        panel.start_button.click()
        panel.wait_for("completed")
        own_hub_process.kill()
        away = panel.wait_for("hub away")
        assert away.text.startswith("hub does not answer · 100 % · ")
        assert "Check that it runs" in away.message.text and panel.start_button.disabled
        own_hub_process.start()
        back = panel.wait_for("completed")
        assert back.message.text == "The twin can be read again; the panel goes on."

        hub.delete_device(device_id)
        lost = panel.wait_for("no identity")
        assert lost.text.startswith("hub has no such device · ")
        hub.close()
        assert panel.view.state == "hub closed"
        assert "Run the set-up cell" in shown(panel) and panel.start_button.disabled
        assert panel_threads(device) == []
        panel.close()
        hub.close()


def test_a_device_that_is_stopped_is_told_and_can_be_started_again(
    make: NewDevice, panel_of: NewPanel
) -> None:
    device = make().start()
    panel = panel_of(device)
    panel.wait_for("no update yet")
    device.stop()
    assert panel.wait_for("stopped").text.startswith("device is stopped · ")
    panel.restart_button.click()
    panel.wait_for("no update yet")
    assert device.is_running


def test_a_panel_whose_device_was_made_again_says_so_and_stops_nobody(
    make: NewDevice, panel_of: NewPanel
) -> None:
    device = make(stage_seconds=0.1).start()
    panel = panel_of(device)
    panel.wait_for("no update yet")
    again = SimulatedDevice(
        str.__str__(device._setup.connection_string), **device._setup.device_options
    )
    with again:
        panel.wait_for("replaced")
        assert "Run its cell again." in panel.view.message.text
        assert panel.restart_button.disabled and panel.power_button.disabled
        assert again.is_running
    panel.wait_for("stopped")


def test_an_order_with_an_unknown_name_and_no_interval_are_refused_in_their_cell(
    make: NewDevice, hub: Hub
) -> None:
    device = make()
    with pytest.raises(TypeError, match="order has package_url"):
        UpdatePanel(hub, device, order={"package_url": "test.com"})
    with pytest.raises(ValueError, match="more than zero"):
        UpdatePanel(hub, device, interval=0)
    assert panel_threads(device) == []


def test_a_kernel_that_ends_in_mid_update_ends_quietly(
    hub_process: HubProcess, hub: Hub, device_id: str
) -> None:
    code = """if True:
        import sys
        from pathlib import Path
        from fwupdate_helpers import SimulatedDevice, UpdatePanel
        from fwupdate_helpers.hub import Hub
        service, host, device, ca = sys.stdin.read().splitlines()
        hub = Hub(kind="local", connection_string=service, device_host=host, ca_file=Path(ca))
        device = SimulatedDevice(device, stage_seconds=5.0, **hub.device_options).start()
        panel = UpdatePanel(hub, device)
        panel.start_button.click()
        print(panel.wait_for("waiting").text)
    """
    secrets = (hub_process.connection_string, str(hub_process.ready["device_host"]))
    device = str.__str__(hub.device_connection_string(device_id))
    process = run_python(code)
    text = "\n".join((*secrets, device, hub_process.ca_file))
    began = time.monotonic()
    out, err = process.communicate(text, timeout=30)
    assert (process.returncode, err) == (0, "")
    assert out.startswith("waiting · 0 % · ")
    assert time.monotonic() - began < 20
