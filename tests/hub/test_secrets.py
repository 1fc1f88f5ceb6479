"""No key, token or connection string in what the hub logs, prints, notes or answers in error."""

from __future__ import annotations

import json
import re
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psutil
import pytest
from azure.iot.device import IoTHubDeviceClient
from azure.iot.device.exceptions import ClientError, CredentialError
from azure.iot.hub.models import CloudToDeviceMethod, Twin
from msrest.exceptions import HttpOperationError

from fwupdate_helpers.localhub import background
from fwupdate_helpers.localhub.sas import new_key
from fwupdate_helpers.localhub.statedir import StateDir
from tests.raw_mqtt import RawDevice, connect, publish
from tests.rest import call, create_device, policy_key, service_host, token, twin_path
from tests.sdk import answer_methods
from tests.support import HubProcess, device_connection_string

# All that Python and the libraries can say, masked as always; what the hub itself says, bare.
TALKATIVE = """
import logging, sys
from fwupdate_helpers.localhub import __main__ as program

def set_up_logging(state):
    everything, ours = (logging.FileHandler(name) for name in sys.argv[1:3])
    everything.setFormatter(program._Masked("%(name)s: %(message)s"))
    logging.basicConfig(level=logging.DEBUG, handlers=[everything])
    logging.getLogger("fwupdate_helpers").addHandler(ours)

program._set_up_logging = set_up_logging
sys.exit(program.main(sys.argv[3:]))
"""


class TalkativeHub(HubProcess):
    """A hub whose logs hold everything."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / "hub")
        self.log_files = [folder / "everything.log", folder / "ours.log"]
        self.program = ("-c", TALKATIVE, *map(str, self.log_files))


class Conversation:
    """Everything that a hub is told in confidence, and all that it answers in error."""

    def __init__(self, hub: HubProcess) -> None:
        self.hub = hub
        self.answers: list[str] = []
        self.keys = [
            policy_key(hub, policy, which)
            for policy in ("iothubowner", "service", "device", "registryRead", "registryReadWrite")
            for which in (0, 1)
        ]
        self.tokens: list[str] = []

    def token(self, *arguments: Any, **options: Any) -> str:
        self.tokens.append(token(self.hub, *arguments, **options))
        return self.tokens[-1]

    def rest(self, method: str, path: str, body: Any = None, **options: Any) -> None:
        """Send a request that the hub must refuse."""
        reply = call(self.hub, method, path, body, **options)
        assert reply.status >= 400, reply.text
        self.answers.append(f"{reply.text} {reply.headers}")

    def sdk(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Make a call of the service SDK that the hub must refuse."""
        with pytest.raises(HttpOperationError) as error:
            function(*arguments)
        self.answers.append(f"{error.value} {error.value.response.text}")

    def service_sdk(self) -> None:
        registry = self.hub.registry()
        keys = [new_key(), new_key()]
        self.keys += keys
        registry.create_device_with_sas("d1", *keys, "enabled")
        self.sdk(registry.create_device_with_sas, "d1", *keys, "enabled")
        self.sdk(registry.update_device_with_sas, "d1", "stale", *keys, "enabled")
        self.sdk(registry.get_device, "unknown")
        self.sdk(registry.update_twin, "d1", Twin(tags={"a.b": keys[0]}))
        self.sdk(registry.invoke_device_method, "d1", CloudToDeviceMethod(method_name="m"))
        self.sdk(registry.get_modules, "d1")

    def device_sdk(self) -> None:
        string = device_connection_string(self.hub, "d2")
        self.keys.append(string.split("SharedAccessKey=")[1])
        client = IoTHubDeviceClient.create_from_connection_string(string, **self.hub.device_options)
        client.connect()
        answer_methods(client, lambda request: (200, "done"))
        self.hub.registry().invoke_device_method("d2", CloudToDeviceMethod(method_name="m"))
        client.patch_twin_reported_properties({"a": 1})
        with pytest.raises(ClientError):
            client.patch_twin_reported_properties({"a.b": 1})
        client.shutdown()
        self.keys.append(new_key())
        stranger = IoTHubDeviceClient.create_from_connection_string(
            string.split("SharedAccessKey=")[0] + f"SharedAccessKey={self.keys[-1]}",
            **self.hub.device_options,
        )
        with pytest.raises(CredentialError):
            stranger.connect()
        stranger.shutdown()

    def bare_rest(self) -> None:
        key = create_device(self.hub, "d3")
        self.keys.append(key)
        good = self.token()
        for bad in (
            self.token(key=key),
            self.token(valid=-1),
            self.token("service"),
            self.token(resource=f"{service_host(self.hub)}/twins"),
            good.replace("sig=", "sig=%"),
            good.replace("SharedAccessSignature", "Bearer"),
            f"{good}&{good}",
        ):
            self.rest("GET", "/devices/d3", authorization=bad)
        self.rest("GET", f"/devices/{quote(good, safe='')}")
        self.rest("PUT", "/devices/d4", b'{"key":' + key.encode())
        short = {"authentication": {"symmetricKey": {"primaryKey": key[:-4] + "!" * 4}}}
        self.rest("PUT", "/devices/d4", short)
        self.rest("PUT", "/devices/d4", {"deviceId": key})
        self.rest("PATCH", twin_path("d3"), {"tags": {"a": "x" * 4000 + key * 10}})
        self.malformed_http(f"GET /devices?api-version=1 HTTP/1.1\r\nAuthorization: {good}\x01")
        self.malformed_http(f"GET /devices HTTP/1.1\r\nAuthorization {good}")
        self.malformed_http(f"GET /devices HTTP/1.1\r\nAuthorization: {good * 100}")
        self.malformed_http(f"{good}")

    def malformed_http(self, head: str) -> None:
        context = ssl.create_default_context(cafile=self.hub.ca_file)
        host = str(self.hub.ready["device_host"])
        with (
            socket.create_connection((host, self.hub.ready["service_port"])) as plain,
            context.wrap_socket(plain, server_hostname=host) as stream,
        ):
            stream.sendall(f"{head}\r\nHost: {host}\r\n\r\n".encode())
            stream.settimeout(5)
            # aiohttp's own answer quotes the line to its sender; the log must not.
            assert re.match(rb"HTTP/1\.[01] 4\d\d ", stream.recv(65536))

    def bare_mqtt(self) -> None:
        key = create_device(self.hub, "d5")
        self.keys.append(key)
        with RawDevice(self.hub, "d5", key) as device:
            self.tokens.append(device.token(valid=-1))
            assert device.connect(password=self.tokens[-1])[1] == 5
        with RawDevice(self.hub, "d5", key) as device:
            assert device.connect(username=device.token())[1] == 4
        with RawDevice(self.hub, "d5", key) as device:
            device.send(connect("d5", "user", f"{key}\x00"))
            assert device.wait_until_closed() == []
        with RawDevice(self.hub, "d5", key) as device:
            device.connected()
            device.send(publish(f"{key}/#"))
            assert device.wait_until_closed() == []
        with RawDevice(self.hub, "d5", key) as device:  # a request that the hub cannot answer
            device.connected()
            device.send(publish(("$iothub/twin/GET/?$rid=" + key * 1500)[:65535]))
            assert device.wait_until_closed() == []

    def hold(self) -> None:
        self.service_sdk()
        self.device_sdk()
        self.bare_rest()
        self.bare_mqtt()

    def check(self, *texts: str) -> None:
        """Find nothing that was told in confidence, as it is or encoded for a URL."""
        secrets = {*self.keys, *(token.split("sig=")[1].split("&")[0] for token in self.tokens)}
        secrets |= {quote(secret, safe="") for secret in secrets}
        for text in texts:
            assert [secret for secret in secrets if secret in text] == []
            assert not re.search(r"(sig=|SharedAccessKey=)[^*]|SharedAccessSignature sr", text)


def test_the_most_talkative_hub_tells_no_secret(tmp_path: Path) -> None:
    hub = TalkativeHub(tmp_path)
    with hub:
        conversation = Conversation(hub)
        conversation.hold()
        arguments = " ".join(psutil.Process(hub.process.pid).cmdline())
        running = (hub.state_dir / "hub.json").read_text(encoding="utf-8")
        errors = hub.stop()
    logs = [file.read_text(encoding="utf-8") for file in hub.log_files]

    assert all(name in logs[0] for name in ("asyncio: ", "aiohttp.server: "))
    assert "refused: the token has expired" in logs[1]
    conversation.check(*logs, errors, running, arguments, *conversation.answers)


def test_the_background_hub_tells_no_secret(tmp_path: Path) -> None:
    state = StateDir(tmp_path / "hub")
    background.ensure_running(state)
    try:
        hub = HubProcess(state.path)  # to talk to it; it is not started
        hub.ready = json.loads(state.running_file.read_text(encoding="utf-8"))
        hub.ready["connection_string"] = background.owner_connection_string(state)
        conversation = Conversation(hub)
        conversation.hold()
        described = repr(background.find(state)) + str(background.status(state))
    finally:
        assert background.stop(state)

    files = [file.read_text(encoding="utf-8") for file in (state.log_file, state.error_file)]
    assert "connected" in files[0]
    conversation.check(*files, described, *conversation.answers)
