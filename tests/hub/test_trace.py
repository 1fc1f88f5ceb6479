"""The wire trace of a real hub: what the unmodified SDKs send, in order, and no secret of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from urllib.parse import quote

import pytest
import requests
from azure.iot.device import IoTHubDeviceClient
from azure.iot.hub.models import CloudToDeviceMethod, Twin, TwinProperties
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msrest.exceptions import HttpOperationError

from fwupdate_helpers.firmware import build_image, publish_image
from fwupdate_helpers.hub import Hub
from fwupdate_helpers.localhub.sas import new_key
from fwupdate_helpers.localhub.wiretrace import DEVICE, HUB, Message, WireTrace
from fwupdate_helpers.trace import GONE, ON_AZURE, STARTED_ANEW, Trace, TraceRow
from tests.raw_mqtt import OpenDevice, connect, publish
from tests.rest import call, token, twin_path
from tests.sdk import answer_methods
from tests.support import HubProcess


def now() -> datetime:
    return datetime(2026, 1, 1, tzinfo=timezone.utc)


@pytest.fixture
def hub(hub_process: HubProcess) -> Iterator[Hub]:
    ready = hub_process.ready
    string, ca_file = hub_process.connection_string, Path(hub_process.ca_file)
    with Hub(
        kind="local", connection_string=string, device_host=ready["device_host"], ca_file=ca_file
    ) as hub:
        yield hub


@pytest.fixture
def client(hub: Hub, device_id: str) -> Iterator[IoTHubDeviceClient]:
    string = hub.device_connection_string(device_id)
    client = IoTHubDeviceClient.create_from_connection_string(string, **hub.device_options)
    client.connect()
    yield client
    client.shutdown()


def arrows(trace: Trace) -> list[str]:
    return [f"{row.source}→{row.target} {_short(row)}" for row in trace]


def _short(row: TraceRow) -> str:
    return f"{row.what.partition('/?')[0]} {row.status or ''}".strip()


def test_a_direct_method_is_four_messages_each_answer_beside_its_request(
    hub: Hub, client: IoTHubDeviceClient, device_id: str
) -> None:
    answer_methods(client, lambda request: (200, {"heard": request.payload}))
    mark = hub.trace(device_id).last
    method = CloudToDeviceMethod(method_name="reboot", payload={"why": "test"})
    hub.registry.invoke_device_method(device_id, method)

    seen = hub.trace(device_id, after=mark, kinds=["methods"])
    messages = [row for row in seen if not row.is_acknowledgement]
    assert arrows(Trace(messages)) == [
        f"service→hub POST /twins/{device_id}/methods",
        "hub→device PUBLISH $iothub/methods/POST/reboot",
        "device→hub PUBLISH $iothub/methods/res/200 200",
        "hub→service OK 200",
    ]
    request, call, told, answer = messages
    assert (told.answers, answer.answers) == (call.number, request.number)
    assert json.loads(call.body) == {"why": "test"}
    assert json.loads(answer.body) == {"status": 200, "payload": {"heard": {"why": "test"}}}
    assert call.size == len(call.body)
    (acknowledgement,) = (row for row in seen if row.is_acknowledgement)
    assert (acknowledgement.what, acknowledgement.answers) == ("PUBACK", told.number)


def test_a_report_and_a_wish_show_the_versions_that_they_made(
    hub: Hub, client: IoTHubDeviceClient, device_id: str
) -> None:
    mark = hub.trace(device_id).last
    client.patch_twin_reported_properties({"speed": 1})
    report = [row for row in hub.trace(device_id, after=mark) if row.kind == "twin"]
    assert [row.status for row in report] == [None, 204, None]
    assert "$version=2" in report[1].what and report[1].answers == report[0].number

    client.on_twin_desired_properties_patch_received = lambda patch: None
    mark = hub.trace(device_id).last
    hub.registry.update_twin(device_id, Twin(properties=TwinProperties(desired={"speed": 2})))
    wish = hub.trace(device_id, after=mark, kinds=["twin"])
    assert f"service→hub PATCH /twins/{device_id}" in arrows(wish)
    (told,) = (row for row in wish if row.source == HUB and row.target == DEVICE)
    assert json.loads(told.body) == {"speed": 2, "$version": 2}


def test_coming_and_going_is_told_with_the_subscriptions(
    hub: Hub, client: IoTHubDeviceClient, device_id: str
) -> None:
    answer_methods(client, lambda request: (200, None))
    client.disconnect()
    told = arrows(hub.trace(device_id, kinds=["connection"]))
    assert told[0] == "device→hub CONNECT"
    assert "device→hub SUBSCRIBE $iothub/methods/POST/#" in told
    assert told[-1] == "device→hub DISCONNECT"


def test_a_refusal_of_the_hub_is_the_answer_of_its_request(
    hub: Hub, client: IoTHubDeviceClient, device_id: str
) -> None:
    client.disconnect()
    mark = hub.trace(device_id).last
    with pytest.raises(HttpOperationError):
        hub.registry.invoke_device_method(device_id, CloudToDeviceMethod(method_name="reboot"))
    request, answer = hub.trace(device_id, after=mark, kinds=["methods"])
    assert (answer.what, answer.status, answer.answers) == ("DeviceNotOnline", 404, request.number)
    assert "404103" in answer.body


def test_no_key_token_or_address_of_an_image_is_in_the_record(
    hub: Hub, client: IoTHubDeviceClient, device_id: str, tmp_path: Path
) -> None:
    mark = hub.trace().last
    build_image(
        tmp_path / "1.img", version="1.0.0", signing_key=Ed25519PrivateKey.generate(), size=4096
    )
    address = publish_image(hub, tmp_path / "1.img")
    requests.get(address, verify=str(hub._ca_file), timeout=10).raise_for_status()
    answer_methods(client, lambda request: (200, {"from": str(address)}))
    client.patch_twin_reported_properties({"uri": str(address), "apiKey": "canary-7"})
    method = CloudToDeviceMethod(method_name="go", payload={"fwPackageUri": str(address)})
    hub.registry.invoke_device_method(device_id, method)
    keys = hub.registry.get_device(device_id).authentication.symmetric_key

    seen = hub.trace(after=mark)
    text = "\n".join(f"{row.what} {row.body}" for row in seen) + repr(seen) + seen._repr_html_()
    service_key = str.__str__(hub._connection_string.partition("SharedAccessKey=")[2])
    secrets = [keys.primary_key, keys.secondary_key, service_key, "canary-7"]
    secrets += [str(address).split("/")[-2]]
    assert all(secrets) and not [secret for secret in secrets if secret in text]
    assert "SharedAccessSignature sr" not in text
    image = [row for row in seen if row.kind == "image"]
    assert [row.status for row in image] == [None, 200] and image[1].size > 4096


def test_a_download_is_told_of_the_device_that_was_told_the_address(
    hub: Hub, client: IoTHubDeviceClient, device_id: str, tmp_path: Path
) -> None:
    build_image(
        tmp_path / "2.img", version="2.0.0", signing_key=Ed25519PrivateKey.generate(), size=4096
    )
    address = publish_image(hub, tmp_path / "2.img")
    answer_methods(client, lambda request: (200, None))
    method = CloudToDeviceMethod(method_name="go", payload={"fwPackageUri": str(address)})
    hub.registry.invoke_device_method(device_id, method)
    part = {"Range": "bytes=100-299"}
    requests.get(address, headers=part, verify=str(hub._ca_file), timeout=10).raise_for_status()

    request, answer = hub.trace(device_id, kinds=["image"])
    assert (request.source, request.what) == (DEVICE, "GET /firmware/***/2.img")
    assert answer.what.startswith("Partial Content bytes 100-299/")
    assert (answer.status, answer.size, answer.answers) == (206, 200, request.number)


def test_what_a_stranger_sends_in_the_wrong_place_is_not_kept(
    hub: Hub, hub_process: HubProcess, open_device: OpenDevice, device_id: str
) -> None:
    key, password = new_key(), token(hub_process)
    device = open_device(device_id).connected()
    device.send(publish(f"{key}/#"))
    device.wait_until_closed()
    for client_id in (key, password, f"HostName=h;DeviceId=d;SharedAccessKey={key}", key * 50):
        stranger = open_device(device_id)
        stranger.send(connect(client_id, key, password))
        stranger.wait_until_closed()
    for secret in (key, password):
        call(hub_process, "GET", f"/devices/{quote(secret, safe='')}")
        call(hub_process, "GET", f"/{quote(secret)}", authorization="")
        call(hub_process, "GET", "/devices", query=f"api-version=1&top={quote(secret)}")
        call(hub_process, "PATCH", twin_path(device_id), {"tags": {"note": f"my key: {secret}"}})

    seen = hub.trace()
    signature = password.partition("sig=")[2].partition("&")[0]
    text = json.dumps([vars(row) for row in seen], default=str) + seen._repr_html_()
    forms = [(secret, quote(secret, safe="")) for secret in (key, signature)]
    assert not [form for pair in forms for form in pair if form[:20] in text or form[-20:] in text]
    assert len([row for row in seen if row.what == "CONNACK" and row.status]) >= 3


def test_a_mark_of_an_earlier_hub_and_one_whose_messages_are_gone_are_told(
    hub: Hub, device_id: str
) -> None:
    hub.device_connection_string(device_id)
    mark = hub.trace(device_id)[0].number
    assert hub.trace(device_id, after=mark).note == ""
    hub.clear_trace()
    assert hub.trace(device_id, after=max(1, mark - 1)).note == GONE
    assert hub.trace(device_id, after=10**9).note == STARTED_ANEW


def test_who_may_not_read_the_hub_may_not_read_its_trace(hub_process: HubProcess) -> None:
    host = hub_process.connection_string.partition(";")[0].partition("=")[2]
    url = f"https://{host}/$localhub/trace"
    for method in ("GET", "DELETE"):
        answer = requests.request(method, url, verify=hub_process.ca_file, timeout=10)
        assert answer.status_code == 401


def test_a_stranger_leaves_no_body_in_the_trace(hub: Hub, hub_process: HubProcess) -> None:
    host = hub_process.connection_string.partition(";")[0].partition("=")[2]
    url = f"https://{host}/twins/stranger/methods?api-version=2021-04-12"
    requests.post(url, json={"methodName": "x"}, verify=hub_process.ca_file, timeout=10)
    request, answer = hub.trace("stranger")
    assert (request.body, answer.status) == ("", 401)


def test_a_cleared_trace_is_empty_and_its_numbers_go_on(hub: Hub, device_id: str) -> None:
    hub.device_connection_string(device_id)
    before = hub.trace().last
    hub.clear_trace()
    assert len(hub.trace(device_id)) == 0
    assert hub.trace().last >= before > 0


def test_a_hub_without_its_trace_says_so(tmp_path: Path) -> None:
    with HubProcess(tmp_path / "hub", "--trace", "off") as process:
        string, ca_file = process.connection_string, Path(process.ca_file)
        with Hub(kind="local", connection_string=string, ca_file=ca_file) as hub:
            hub.device_connection_string("someone")
            seen = hub.trace()
    assert len(seen) == 0 and "without its wire trace" in seen.note


def test_on_azure_the_trace_is_empty_and_tells_why() -> None:
    string = "HostName=h.azure-devices.net;SharedAccessKeyName=n;SharedAccessKey=YWJj"
    seen = Hub(kind="azure", connection_string=string).trace("someone")
    assert (len(seen), seen.last, seen.note) == (0, 0, ON_AZURE)
    assert ON_AZURE in repr(seen) and "through Azure&#x27;s machines" in seen._repr_html_()


def test_a_kind_that_there_is_not_is_named(hub: Hub) -> None:
    with pytest.raises(ValueError, match="twins"):
        hub.trace(kinds=["twins"])


def test_only_the_last_messages_are_kept() -> None:
    trace = WireTrace(now, rows=3)
    for number in range(5):
        trace.add(Message(f"d{number % 2}", "other", DEVICE, HUB, f"m{number}"))
    assert [row["what"] for row in trace.rows()] == ["m2", "m3", "m4"]
    assert [row["number"] for row in trace.rows(after=4)] == [5]
    assert [row["what"] for row in trace.rows(device_id="d1")] == ["m3"]


def test_messages_wait_for_their_turn_and_are_there_when_they_are_asked_for() -> None:
    later: list[Callable[[], None]] = []
    trace = WireTrace(now, defer=later.append)
    for number in range(250):
        trace.add(Message("d", "other", DEVICE, HUB, f"m{number}"))
    assert [row["number"] for row in trace.rows()] == list(range(1, 251))
    for take_in in later:
        take_in()
    assert len(trace.rows()) == 250


def test_a_trace_that_is_off_keeps_nothing() -> None:
    trace = WireTrace(now, on=False)
    assert trace.add(Message("d", "other", DEVICE, HUB, "m")) is None
    assert (trace.rows(), trace.last) == ([], 0)


def test_rows_are_a_sequence_and_a_table_that_escapes_and_shortens() -> None:
    row = TraceRow(7, now(), "d", "twin", DEVICE, HUB, "PUBLISH <b>", body="&" * 300, size=300)
    trace = Trace([row, row])
    assert (len(trace), trace[0], trace.last, len(trace[1:])) == (2, row, 7, 1)
    html = trace._repr_html_()
    assert "<b>" not in html and "&lt;b&gt;" in html and "<details>" in html
    assert Trace()._repr_html_() == "<p>no messages</p>"


def test_the_address_of_an_image_that_is_taken_for_a_device_is_not_shown(
    hub: Hub, tmp_path: Path
) -> None:
    key = Ed25519PrivateKey.generate()
    build_image(tmp_path / "1.img", version="1.0.0", signing_key=key, size=1000)
    address = publish_image(hub, tmp_path / "1.img")
    secret = str.__str__(address).split("/")[-2]
    mark = hub.trace().last
    with pytest.raises(HttpOperationError):
        hub.registry.get_twin(secret)
    seen = hub.trace(after=mark)
    assert [row.status for row in seen if row.source == HUB] == [404]
    assert secret not in repr(seen) + seen._repr_html_() + str([row.device_id for row in seen])
