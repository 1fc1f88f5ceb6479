"""Faults on a real hub process, met by the unmodified SDKs and by a real download."""

from __future__ import annotations

import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
from azure.iot.device import IoTHubDeviceClient
from azure.iot.device.exceptions import NoConnectionError
from azure.iot.hub.models import CloudToDeviceMethod
from msrest.exceptions import HttpOperationError

from fwupdate_helpers import contract
from fwupdate_helpers.device import SimulatedDevice
from fwupdate_helpers.errors import (
    DeviceNotFound,
    DeviceOffline,
    FaultRefused,
    FaultsUnavailable,
    FirmwareUpdateError,
    HubUnauthorized,
    UpdateFailed,
)
from fwupdate_helpers.fault import Fault
from fwupdate_helpers.faults import STAGES
from fwupdate_helpers.firmware import publish_image
from fwupdate_helpers.hub import Hub
from fwupdate_helpers.service import invoke_firmware_update, wait_for_update
from tests import raw_mqtt
from tests.images import Publisher, hub_of
from tests.raw_mqtt import OpenDevice
from tests.rest import assert_error, assert_method_error, call, twin_path, wait_for
from tests.sdk import Connect, answer_methods, refusal
from tests.support import HubProcess

IMAGE = bytes(range(256)) * 400
PATCH = "$iothub/twin/PATCH/properties/reported/?$rid=1"


@pytest.fixture
def hub(hub_process: HubProcess) -> Iterator[Hub]:
    with hub_of(hub_process) as hub:
        yield hub
        hub.faults.clear()


@pytest.fixture
def client(hub: Hub, connect: Connect, device_id: str) -> IoTHubDeviceClient:
    return connect(hub.device_connection_string(device_id))


@pytest.fixture
def image(hub: Hub, tmp_path: Path) -> str:
    file = tmp_path / "edge-2.0.0.fw"
    file.write_bytes(IMAGE)
    return publish_image(hub, file)


class States:
    """The changes of a client's connection, each with its moment."""

    def __init__(self, client: IoTHubDeviceClient) -> None:
        self.seen: list[tuple[bool, float]] = []
        self._client = client
        client.on_connection_state_change = self._note

    def _note(self) -> None:
        # The SDK also tells of each connect that fails.
        state = self._client.connected
        if state is not (self.seen[-1][0] if self.seen else True):
            self.seen.append((state, time.monotonic()))

    def wait(self, *wanted: bool) -> list[float]:
        """Wait for these states in this order; return when each came."""
        wait_for(lambda: len(self.seen) >= len(wanted), seconds=60)
        assert tuple(state for state, _ in self.seen) == wanted
        return [moment for _, moment in self.seen]


def invoke(hub: Hub, device_id: str, *, timeout: int = 10) -> Any:
    method = CloudToDeviceMethod(method_name="go", response_timeout_in_seconds=timeout)
    return hub.registry.invoke_device_method(device_id, method)


def stage_report(stage: str) -> dict[str, Any]:
    times = {contract.STARTED_AT: "2026-01-01T00:00:00.000Z"}
    return {contract.UPDATE: {contract.STAGES_KEY: {stage: times}}}


def fetch(hub: Hub, image: str, **headers: str) -> requests.Response:
    return requests.get(str(image), headers=headers, verify=str(hub._ca_file), timeout=10)


def bytes_until_the_end(hub: Hub, image: str) -> tuple[bytes, Exception | None]:
    """Read an image for as long as it comes; return what came, and how it ended."""
    received = b""
    with requests.get(image, verify=str(hub._ca_file), timeout=10, stream=True) as answer:
        try:
            for piece in answer.iter_content(1024):
                received += piece
        except requests.RequestException as error:
            return received, error
    return received, None


def how_it_ends(hub: Hub, image: str) -> str:
    """Ask for an image on a plain socket: Python's TLS sockets tell no reset from an end."""
    host, _, port = hub.host_name.partition(":")
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.create_default_context(cafile=hub._ca_file)
    tls = context.wrap_bio(incoming, outgoing, server_hostname=host)
    request = f"GET {urlsplit(str.__str__(image)).path} HTTP/1.1\r\nHost: {host}\r\n\r\n"
    with socket.create_connection((host, int(port)), timeout=10) as plain:

        def until_done(step: Callable[[], Any]) -> Any:
            while True:
                try:
                    return step()
                except ssl.SSLWantReadError:
                    plain.sendall(outgoing.read())
                    incoming.write(plain.recv(65536))

        until_done(tls.do_handshake)
        tls.write(request.encode())
        try:
            while until_done(lambda: tls.read(65536)):
                continue
        except ConnectionResetError:
            return "reset"
        return "closed"


# -- the device's connection ------------------------------------------------------------------


def test_a_dropped_connection_comes_back_and_the_one_next_to_it_stays(
    hub: Hub, client: IoTHubDeviceClient, connect: Connect, device_id: str
) -> None:
    other = connect(hub.device_connection_string(f"{device_id}-other"))
    states, untouched = States(client), States(other)
    fault = hub.faults.drop_connection(device_id)
    assert (fault.state, fault.acted, fault.remaining) == ("used up", 1, 0)
    states.wait(False, True)
    assert untouched.seen == [] and list(hub.faults) == []
    reasons = [row.what for row in hub.trace(device_id) if row.what.startswith("CLOSE")]
    assert reasons == ["CLOSE a fault at the hub drops the connection"]


def test_a_device_that_is_kept_off_finds_no_hub_until_the_time_is_over(
    hub: Hub, client: IoTHubDeviceClient, connect: Connect, device_id: str
) -> None:
    states = States(client)
    fault = hub.faults.drop_connection(device_id, keep_off=1.5)
    assert (fault.remaining, fault.is_active) == (0, True)
    with pytest.raises(Exception) as caught:  # a first connect is not repeated by the SDK
        connect(hub.device_connection_string(device_id))
    assert type(caught.value.__cause__ or caught.value).__name__ == "ConnectionDroppedError"
    dropped, back = states.wait(False, True)
    assert back - dropped > 1.4
    assert fault.refresh().state == "used up"
    answers = [row.what for row in hub.trace(device_id, kinds=["connection"])]
    assert answers.count("CLOSE a fault at the hub keeps the device off") >= 2


def test_clearing_lets_a_device_in_that_was_kept_off(
    hub: Hub, client: IoTHubDeviceClient, device_id: str
) -> None:
    states = States(client)
    with hub.faults.drop_connection(device_id, keep_off=600) as fault:
        states.wait(False)
        assert fault.refresh().is_active
    assert fault.state == "cleared"
    states.wait(False, True)


def test_a_kept_off_device_sees_no_answer_to_its_connect(
    hub: Hub, open_device: OpenDevice, device_id: str
) -> None:
    device = open_device(device_id)
    hub.faults.drop_connection(device_id, keep_off=600)
    device.send(
        raw_mqtt.connect(
            device_id, f"{device.host}/{device_id}/?api-version=2019-10-01", device.token()
        )
    )
    assert device.wait_until_closed() == []


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_drops_the_connection_after_its_report_is_acknowledged(
    hub: Hub, open_device: OpenDevice, device_id: str, stage: str
) -> None:
    device = open_device(device_id).connected()
    fault = hub.faults.drop_connection(device_id, at=stage)
    other = next(one for one in contract.STAGES if one != stage)
    device.send(raw_mqtt.publish(PATCH, json.dumps(stage_report(other)).encode()))
    assert "/res/204/" in device.receive().topic and device.answers_ping()
    report = stage_report(stage) if stage in contract.STAGES else {contract.STATUS: stage}
    device.send(raw_mqtt.publish(PATCH, json.dumps(report).encode(), packet_id=5))
    answer, puback = device.wait_until_closed()
    assert "/res/204/" in answer.topic and puback.kind == raw_mqtt.PUBACK
    assert (fault.refresh().acted, fault.state) == (1, "used up")


def test_the_sdk_reports_on_after_a_drop_at_a_stage(
    hub: Hub, client: IoTHubDeviceClient, device_id: str
) -> None:
    states = States(client)
    hub.faults.drop_connection(device_id, at="downloading")
    client.patch_twin_reported_properties(stage_report("downloading"))
    states.wait(False, True)
    client.patch_twin_reported_properties({"after": 1})
    assert hub.registry.get_twin(device_id).properties.reported["after"] == 1


def test_drops_at_random_moments_are_as_many_and_as_far_apart_as_asked(
    hub: Hub, client: IoTHubDeviceClient, device_id: str
) -> None:
    began = time.monotonic()
    fault = hub.faults.drop_connection(device_id, every=(0.3, 0.4), count=3, seed=1)
    wait_for(lambda: fault.refresh().state == "used up", seconds=60)
    assert fault.acted == 3
    assert time.monotonic() - began > 3 * 0.3
    wait_for(lambda: client.connected, seconds=60)


def test_a_lost_acknowledgement_leaves_the_sdk_waiting_although_the_patch_is_applied(
    hub: Hub, client: IoTHubDeviceClient, device_id: str
) -> None:
    hub.faults.lose_acknowledgement(device_id)
    call_one = threading.Thread(
        target=client.patch_twin_reported_properties, args=({"one": 1},), daemon=True
    )
    call_one.start()
    wait_for(lambda: "one" in hub.registry.get_twin(device_id).properties.reported)
    client.patch_twin_reported_properties({"two": 2})
    call_one.join(0.2)
    assert call_one.is_alive()
    statuses = [row.status for row in hub.trace(device_id) if "/twin/res/" in row.what]
    assert statuses.count(204) == 1


def test_without_its_puback_the_sdk_sends_the_patch_again_after_the_next_connect(
    hub: Hub, client: IoTHubDeviceClient, device_id: str
) -> None:
    lost = hub.faults.lose_acknowledgement(device_id, puback=False)
    drop = hub.faults.drop_connection(device_id, at="downloading")
    with suppress(NoConnectionError):  # where the line is cut while the SDK still writes
        client.patch_twin_reported_properties(stage_report("downloading"))  # returns, after all

    def patches() -> list[Any]:
        rows = hub.trace(device_id)
        return [r for r in rows if r.source == "device" and "PATCH/properties/reported" in r.what]

    wait_for(lambda: len(patches()) == 2, seconds=60)
    assert (lost.refresh().acted, drop.refresh().acted) == (1, 1)


# -- direct methods ---------------------------------------------------------------------------


def test_a_swallowed_answer_is_504101_although_the_device_has_answered(
    hub: Hub, client: IoTHubDeviceClient, device_id: str
) -> None:
    answered: list[str] = []
    answer_methods(client, lambda request: (200, answered.append(request.name)))
    fault = hub.faults.swallow_method_responses(device_id)
    with pytest.raises(HttpOperationError) as caught:
        invoke(hub, device_id, timeout=5)
    assert caught.value.response.status_code == 504
    assert json.loads(caught.value.response.json()["Message"])["errorCode"] == 504101
    assert answered == ["go"] and fault.refresh().state == "used up"
    assert invoke(hub, device_id).status == 200


def test_delays_count_down_and_leave_another_device_alone(
    hub: Hub, client: IoTHubDeviceClient, connect: Connect, device_id: str
) -> None:
    other = connect(hub.device_connection_string(f"{device_id}-other"))
    for one in (client, other):
        answer_methods(one, lambda request: (200, None))
    fault = hub.faults.delay_method_responses(device_id, 0.5, count=2)

    def seconds(target: str) -> float:
        begin = time.monotonic()
        assert invoke(hub, target).status == 200
        return time.monotonic() - begin

    assert seconds(f"{device_id}-other") < 0.4
    assert seconds(device_id) > 0.5
    assert (fault.refresh().remaining, fault.acted) == (1, 1)
    assert seconds(device_id) > 0.5
    assert seconds(device_id) < 0.4


# -- services ---------------------------------------------------------------------------------


def test_a_refused_call_has_azures_shape_and_asks_to_wait(
    hub: Hub, hub_process: HubProcess, device_id: str
) -> None:
    hub.device_connection_string(device_id)
    hub.faults.refuse_service_calls(429, count=2, retry_after=7, device_id=device_id)
    twin = call(hub_process, "GET", twin_path(device_id))
    assert_error(twin, 429001, "ThrottlingException")
    method = call(hub_process, "POST", f"{twin_path(device_id)}/methods", {"methodName": "go"})
    assert_method_error(method, 429001, "ThrottlingException")
    assert (twin.headers["Retry-After"], method.headers["Retry-After"]) == ("7", "7")
    assert call(hub_process, "GET", twin_path(device_id)).status == 200


def test_the_service_sdk_meets_503_on_the_calls_that_were_named_and_on_no_others(
    hub: Hub, device_id: str
) -> None:
    hub.device_connection_string(device_id)
    fault = hub.faults.refuse_service_calls(503, kinds=["methods", "registry"], count=2)
    assert hub.registry.get_twin(device_id).device_id == device_id
    unavailable = (503, "ServiceUnavailable")
    assert refusal(hub.registry.get_device, device_id) == unavailable
    assert refusal(invoke, hub, device_id) == unavailable
    assert hub.registry.get_device(device_id).device_id == device_id
    assert fault.refresh().acted == 2


def test_one_devices_refusals_do_not_touch_another_and_never_the_hubs_own_routes(
    hub: Hub, device_id: str
) -> None:
    other = f"{device_id}-other"
    for one in (device_id, other):
        hub.device_connection_string(one)
    with hub.faults.refuse_service_calls(device_id=device_id, share=1):
        assert hub.registry.get_twin(other).device_id == other
        assert refusal(hub.registry.get_twin, device_id)[0] == 429
    with hub.faults.refuse_service_calls(503, share=1):
        assert refusal(hub.registry.get_twin, other)[0] == 503
        assert len(list(hub.faults)) == 1 and len(hub.trace(device_id)) > 0
    assert hub.registry.get_twin(device_id).device_id == device_id


def test_a_share_of_the_calls_fails_and_the_same_seed_hits_the_same_ones(
    hub: Hub, device_id: str
) -> None:
    hub.device_connection_string(device_id)

    def hits(seed: int) -> list[bool]:
        with hub.faults.refuse_service_calls(share=0.3, seed=seed, device_id=device_id) as fault:
            seen = [_is_refused(hub, device_id) for _ in range(60)]
        assert fault.acted == sum(seen)
        return seen

    first = hits(1)
    assert 8 <= sum(first) <= 28
    assert hits(1) == first != hits(2)


def _is_refused(hub: Hub, device_id: str) -> bool:
    try:
        hub.registry.get_twin(device_id)
    except HttpOperationError as error:
        assert error.response.status_code == 429
        return True
    return False


# -- images -----------------------------------------------------------------------------------


def test_a_slow_download_takes_its_time_and_speeds_up_when_cleared(hub: Hub, image: str) -> None:
    fault = hub.faults.slow_download(50_000, image=image)
    begin = time.monotonic()
    assert fetch(hub, image, Range="bytes=0-39999").content == IMAGE[:40_000]
    assert 0.5 < time.monotonic() - begin < 2
    hub.faults.slow_download(1000, image=image)  # the whole image would take 100 s
    with requests.get(image, verify=str(hub._ca_file), timeout=10, stream=True) as answer:
        pieces = answer.iter_content(100)
        first = next(pieces)
        hub.faults.clear()
        assert first + b"".join(pieces) == IMAGE
    assert fault.refresh().state == "cleared"


def test_a_download_is_cut_after_so_many_bytes_so_many_times(hub: Hub, image: str) -> None:
    fault = hub.faults.cut_download(30_000, times=2, image=image)
    for _ in range(2):
        received, error = bytes_until_the_end(hub, image)
        assert error is not None and received == IMAGE[: len(received)]
        assert 29_000 < len(received) <= 30_000  # the last incomplete piece is not given out
    assert fetch(hub, image).content == IMAGE
    assert (fault.refresh().acted, fault.state) == (2, "used up")


@pytest.mark.parametrize("reset", [False, True])
def test_a_cut_is_the_end_of_the_connection_or_its_reset(hub: Hub, image: str, reset: bool) -> None:
    hub.faults.cut_download(30_000, reset=reset, image=image)
    assert how_it_ends(hub, image) == ("reset" if reset else "closed")


def test_a_cut_leaves_shorter_answers_and_other_images_alone(
    hub: Hub, image: str, tmp_path: Path
) -> None:
    fault = hub.faults.cut_download(30_000, image=image)
    assert fetch(hub, image, Range="bytes=0-29999").content == IMAGE[:30_000]
    (tmp_path / "other.fw").write_bytes(IMAGE)
    assert fetch(hub, publish_image(hub, tmp_path / "other.fw")).content == IMAGE
    assert fault.refresh().acted == 0


def test_a_corrupted_byte_hides_behind_the_same_etag_also_when_resumed(
    hub: Hub, image: str
) -> None:
    good = fetch(hub, image)
    fault = hub.faults.corrupt_image(at=50_000, image=image, count=2)
    bad = fetch(hub, image)
    part = fetch(hub, image, Range="bytes=49990-", **{"If-Range": good.headers["ETag"]})
    assert bad.headers["ETag"] == part.headers["ETag"] == good.headers["ETag"]
    assert part.status_code == 206 and part.content == bad.content[49_990:]
    differing = [at for at, byte in enumerate(bad.content) if byte != IMAGE[at]]
    assert differing == [50_000] and len(bad.content) == len(IMAGE)
    assert fault.refresh().state == "used up" and fetch(hub, image).content == IMAGE


def test_two_faults_act_on_one_download(hub: Hub, image: str) -> None:
    hub.faults.corrupt_image(at=10)
    hub.faults.cut_download(20_000)
    received, error = bytes_until_the_end(hub, image)
    assert error is not None and received[10] == IMAGE[10] ^ 0xFF
    assert received[11:] == IMAGE[11 : len(received)]


def test_a_device_resumes_what_is_cut_and_only_the_hash_finds_what_is_corrupted(
    hub: Hub, make: Callable[..., SimulatedDevice], device_id: str, tmp_path: Path
) -> None:
    publisher = Publisher(hub, tmp_path)
    image = publisher.publish("2.0.0")

    def update() -> None:
        started = invoke_firmware_update(hub.registry, device_id, package_uri=image)
        wait_for_update(hub.registry, device_id, started.update_id, interval=0.02, timeout=30)

    with make(board=publisher.board()) as device:
        with (
            hub.faults.corrupt_image(image=image) as corrupted,
            pytest.raises(UpdateFailed) as caught,
        ):
            update()
        assert (caught.value.code, corrupted.acted) == (contract.CODE_HASH_MISMATCH, 1)
        with hub.faults.cut_download(80_000, times=2, image=image) as cut:
            update()
        assert cut.state == "used up" and device.board is not None
        assert device.board.power_up().version == "2.0.0"


# -- the list ---------------------------------------------------------------------------------


def test_faults_are_listed_in_words_without_the_address_of_an_image(
    hub: Hub, image: str, device_id: str
) -> None:
    hub.device_connection_string(device_id)
    made = [
        hub.faults.cut_download(1, image=image),
        hub.faults.corrupt_image(image=image, at=3),
        hub.faults.slow_download(5, image=image),
        hub.faults.drop_connection(device_id, at="applying", keep_off=3),
    ]
    listed = list(hub.faults)
    assert [(one.id, one.text) for one in listed] == [(one.id, one.text) for one in made]
    assert "edge-2.0.0.fw" in made[0].text and "when it reports applying" in made[3].text
    shown = hub.faults._repr_html_() + repr(hub.faults) + repr(listed) + made[0]._repr_html_()
    told = "".join(str(one._row) for one in listed)
    token = str(image).split("/")[-2]
    assert made[0].id in shown and token not in shown and token not in told


def test_a_fault_expires(hub: Hub, device_id: str) -> None:
    hub.device_connection_string(device_id)
    fault = hub.faults.refuse_service_calls(share=1, device_id=device_id, seconds=0.3)
    left = (fault.expires_at - datetime.now(timezone.utc)).total_seconds()
    assert left < 0.3 and refusal(hub.registry.get_twin, device_id)[0] == 429
    wait_for(lambda: not list(hub.faults))
    assert hub.registry.get_twin(device_id).device_id == device_id
    assert fault.refresh().state == "expired"
    default = hub.faults.swallow_method_responses(device_id)
    left = (default.expires_at - datetime.now(timezone.utc)).total_seconds()
    assert 590 < left <= 600


def test_a_restart_of_the_hub_clears_all_faults(own_hub_process: HubProcess) -> None:
    with hub_of(own_hub_process) as hub:
        hub.device_connection_string("someone")
        fault = hub.faults.swallow_method_responses("someone")
        own_hub_process.stop()
        own_hub_process.start()
        assert list(hub.faults) == []
        assert fault.refresh().state == "cleared"
        fault.clear()


def test_deleting_a_device_ends_its_faults(hub: Hub, device_id: str) -> None:
    hub.device_connection_string(device_id)
    fault = hub.faults.swallow_method_responses(device_id)
    hub.delete_device(device_id)
    assert fault.refresh().state == "cleared"


# -- who may, and what is refused -------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_who_may_not_call_methods_may_make_no_fault(hub_process: HubProcess, method: str) -> None:
    path = "/$localhub/faults"
    assert call(hub_process, method, path, authorization="").status == 401
    for policy in ("device", "registryRead"):
        assert_error(
            call(hub_process, method, path, policy=policy), 401002, "IotHubUnauthorizedAccess"
        )
    wrong = hub_process.connection_string.replace("SharedAccessKey=", "SharedAccessKey=AAAA")
    with (
        Hub(kind="local", connection_string=wrong, ca_file=Path(hub_process.ca_file)) as stranger,
        pytest.raises(HubUnauthorized),
    ):
        list(stranger.faults)


BAD: list[tuple[Callable[[Any, str], Fault], str]] = [
    (lambda f, d: f.drop_connection(d, at="lunch"), "no stage 'lunch'.*downloading"),
    (lambda f, d: f.drop_connection(d, at="waiting", every=(1, 2)), "not both"),
    (lambda f, d: f.drop_connection(d, every=(2, 1)), "in this order"),
    (lambda f, d: f.drop_connection(d, every=5), "two numbers"),
    (lambda f, d: f.drop_connection(d, keep_off=-1), "'keep_off' must be a number above 0"),
    (lambda f, d: f.swallow_method_responses(d, count=0), "'count' must be a whole number from 1"),
    (lambda f, d: f.swallow_method_responses(d, count=1.5), "'count' must be a whole number"),
    (lambda f, d: f.swallow_method_responses(d, seconds=-1), "'seconds' must be a number above 0"),
    (lambda f, d: f.swallow_method_responses(d, seconds=3601), "up to 3600"),
    (lambda f, d: f.swallow_method_responses(""), "'device_id' must be the id"),
    (lambda f, d: f.delay_method_responses(d, float("nan")), "not JSON compliant"),
    (lambda f, d: f.refuse_service_calls(404), "'status' must be one of 429, 503"),
    (lambda f, d: f.refuse_service_calls(share=1.5), "'share' must be a number above 0"),
    (lambda f, d: f.refuse_service_calls(retry_after=-1), "'retry_after' must be a whole"),
    (lambda f, d: f.refuse_service_calls(kinds=["queries"]), "methods, twin, registry"),
    (lambda f, d: f.slow_download(0), "'bytes_per_second' must be a whole number from 1"),
    (lambda f, d: f.cut_download(-1), "'after' must be a whole number from 0"),
    (lambda f, d: f.corrupt_image(at=-1), "'at' must be a whole number from 0"),
    (lambda f, d: f.corrupt_image(image="https://elsewhere.example/firmware/a/b"), "no address"),
    (lambda f, d: f.corrupt_image(image=7), "no address of an image"),
]


def test_bad_input_is_refused_in_words_and_makes_no_fault(hub: Hub, device_id: str) -> None:
    hub.device_connection_string(device_id)
    for make, words in BAD:
        with pytest.raises(FaultRefused, match=words):
            make(hub.faults, device_id)
    assert list(hub.faults) == []


def test_a_byte_beyond_an_image_and_an_image_that_is_gone_are_refused_without_its_token(
    hub: Hub, image: str
) -> None:
    with pytest.raises(FaultRefused, match=f"has {len(IMAGE)} bytes"):
        hub.faults.corrupt_image(at=len(IMAGE), image=image)
    gone = str(image).replace("/firmware/", "/firmware/x")
    with pytest.raises(FaultRefused, match="no such image") as caught:
        hub.faults.corrupt_image(image=gone)
    assert gone.split("/")[-2] not in f"{caught.value!r} {caught.value.__cause__!r}"


def test_an_unknown_device_and_one_that_is_offline_are_named(hub: Hub, device_id: str) -> None:
    with pytest.raises(DeviceNotFound, match="no device nobody"):
        hub.faults.swallow_method_responses("nobody")
    hub.device_connection_string(device_id)
    with pytest.raises(DeviceOffline, match="nothing to drop"):
        hub.faults.drop_connection(device_id)


CALLS: list[Callable[[Any], Any]] = [
    lambda f: f.drop_connection("d", at="lunch"),
    lambda f: f.delay_method_responses("d", 1),
    lambda f: f.swallow_method_responses("d"),
    lambda f: f.refuse_service_calls(),
    lambda f: f.slow_download(1, image="x"),
    lambda f: f.cut_download(1),
    lambda f: f.corrupt_image(),
    lambda f: f.lose_acknowledgement("d"),
    lambda f: f.clear(),
    list,
]


def test_on_azure_there_are_no_faults_and_each_call_says_why() -> None:
    string = "HostName=h.azure-devices.net;SharedAccessKeyName=n;SharedAccessKey=YWJj"
    faults = Hub(kind="azure", connection_string=string).faults
    assert faults.available is False and "Skip this cell" in faults._repr_html_()
    for make in CALLS:
        with pytest.raises(FaultsUnavailable, match=r"on Azure.*Skip this cell"):
            make(faults)
    assert issubclass(FaultsUnavailable, FirmwareUpdateError)


def test_a_hub_without_faults_answers_404_and_each_call_says_why(tmp_path: Path) -> None:
    with HubProcess(tmp_path / "hub", "--faults", "off") as process, hub_of(process) as hub:
        hub.device_connection_string("d")
        assert call(process, "POST", "/$localhub/faults", {}).status == 404
        assert hub.faults.available is False
        for make in (one for one in CALLS if one not in (CALLS[0], CALLS[4])):
            with pytest.raises(FaultsUnavailable, match=r"--faults off.*Skip this cell"):
                make(hub.faults)
        assert "--faults off" in hub.faults._repr_html_()


def test_a_hub_with_faults_says_so(hub: Hub) -> None:
    assert hub.faults.available is True
    assert hub.faults._repr_html_() == "<p>no faults</p>"
