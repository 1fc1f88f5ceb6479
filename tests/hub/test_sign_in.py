"""A hub that is set by its name alone: azure-identity signs in, and the SDK sends its token.

azure-identity is the real one. A small server answers for the managed identity of a machine on
Azure, and another stands before a local hub: it lets that token in, as IoT Hub does, and turns it
into one that the local hub knows.
Source: Microsoft's "Managed identities for App Service", REST endpoint reference.
"""

from __future__ import annotations

import json
import secrets
import ssl
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar
from urllib.parse import parse_qs, urlsplit

import pytest
import requests
from azure.iot.hub.models import Configuration, ConfigurationContent, JobRequest, Twin

from fwupdate_helpers.errors import HubUnauthorized, InvalidConnectionString, SignInUnavailable
from fwupdate_helpers.hub import CONNECTION_STRING_VARIABLE, HOST_NAME_VARIABLE, Hub, connect_hub
from fwupdate_helpers.localhub import tls
from fwupdate_helpers.localhub.sas import make_token
from fwupdate_helpers.localhub.statedir import StateDir
from fwupdate_helpers.rollout.sealing import seal, unseal
from tests.rest import policy_key, service_host
from tests.support import HubProcess

TOKEN = "eyJ0eXAi.canary-of-a-sign-in." + secrets.token_urlsafe(24)
IDENTITY_HEADER = secrets.token_hex(16)


class Quiet(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        return


class ManagedIdentity(Quiet):
    """What hands out tokens on a machine of Azure's App Service."""

    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        query = parse_qs(urlsplit(self.path).query)
        if self.headers.get("X-IDENTITY-HEADER") != IDENTITY_HEADER:
            return self.answer(401, b"{}")
        self.asked.append(query["resource"][0])
        body = {
            "access_token": TOKEN,
            "expires_on": str(int(time.time()) + 3600),
            "resource": query["resource"][0],
            "token_type": "Bearer",
        }
        self.answer(200, json.dumps(body).encode(), {"Content-Type": "application/json"})


def door_of(hub: HubProcess) -> type[Quiet]:
    """Return what lets the token of the sign-in into a hub, and no other."""

    class Door(Quiet):
        def pass_on(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                return self.answer(401, b'{"Message":"ErrorCode:IotHubUnauthorizedAccess"}')
            host, key = service_host(hub), policy_key(hub, "iothubowner")
            signed = make_token(host, key, int(time.time()) + 60, "iothubowner")
            kept = ("If-Match", "Content-Type", "x-ms-max-item-count", "x-ms-continuation")
            headers = {name: self.headers[name] for name in kept if name in self.headers}
            answer = requests.request(
                self.command,
                f"https://{host}{self.path}",
                data=body,
                headers={**headers, "Authorization": signed},
                verify=hub.ca_file,
                timeout=30,
            )
            self.answer(
                answer.status_code, answer.content, {"ETag": answer.headers.get("ETag", "")}
            )

        do_GET = do_PUT = do_POST = do_PATCH = do_DELETE = pass_on

    return Door


@contextmanager
def served(handler: type[Quiet], context: ssl.SSLContext | None = None) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    if context:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), name="sign-in")
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def door(
    hub_process: HubProcess,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[str]:
    """Return the host of a hub that takes a sign-in; this process is set to use it."""
    state = StateDir(tmp_path_factory.mktemp("door"))
    tls.ensure_certificates(state, "127.0.0.1")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(state.ca_file))
    monkeypatch.delenv(CONNECTION_STRING_VARIABLE)
    for name in ("AZURE_CLIENT_ID", "AZURE_TENANT_ID", "AZURE_CLIENT_SECRET"):
        monkeypatch.delenv(name, raising=False)
    with served(door_of(hub_process), tls.server_context(state)) as host:
        monkeypatch.setenv(HOST_NAME_VARIABLE, host)
        yield host


@pytest.fixture
def signed_in(door: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let this machine have a managed identity."""
    ManagedIdentity.asked.clear()
    with served(ManagedIdentity) as host:
        monkeypatch.setenv("IDENTITY_ENDPOINT", f"http://{host}/msi/token")
        monkeypatch.setenv("IDENTITY_HEADER", IDENTITY_HEADER)
        yield


@pytest.mark.usefixtures("signed_in")
def test_registry_jobs_and_configurations_work_without_any_key_of_the_hub(
    door: str, device_id: str, hub_process: HubProcess
) -> None:
    with connect_hub() as hub:
        assert (hub.kind, hub.host_name) == ("azure", door)
        string = hub.device_connection_string(device_id)
        real = hub_process.registry().get_device(device_id).authentication.symmetric_key
        assert string.endswith(f";SharedAccessKey={real.primary_key}"), "of the identity itself"
        assert string.startswith("HostName=127.0.0.1;")
        hub.registry.update_twin(device_id, Twin(tags={"site": "oslo"}))
        assert hub_process.registry().get_twin(device_id).tags["site"] == "oslo"
        job = JobRequest(
            type="scheduleUpdateTwin",
            update_twin=Twin(tags={"a": 1}, etag="*"),
            query_condition="deviceId = 'nobody'",
        )
        hub.jobs.create_scheduled_job(device_id, job)
        assert hub.jobs.get_scheduled_job(device_id).job_id == device_id
        content = ConfigurationContent(device_content={"properties.desired.a": 1})
        wish = Configuration(id=device_id, content=content, target_condition="tags.site='no'")
        assert hub.configurations.create_configuration(wish).id == device_id
        hub.configurations.delete_configuration(device_id)
        hub.delete_device(device_id)
        shown = f"{hub!r} {hub._repr_html_()} {vars(hub)} {hub.masked_connection_string}"
    assert set(ManagedIdentity.asked) == {"https://iothubs.azure.net"}
    assert TOKEN not in shown and "signed in" in shown


@pytest.mark.usefixtures("signed_in")
def test_what_a_rollout_seals_without_a_connection_string_this_user_can_open() -> None:
    with connect_hub() as hub, connect_hub() as later:
        sealed = seal(hub, "https://example.com/image?sig=abc")
        assert "sig" not in sealed and unseal(later, sealed) == "https://example.com/image?sig=abc"
        assert hub.derived_key("a") != hub.derived_key("b")


def test_nobody_who_is_signed_in_is_told_what_to_do(
    door: str, device_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")  # neither az nor PowerShell of whoever runs this
    monkeypatch.setenv("AZURE_TOKEN_CREDENTIALS", "prod")
    with connect_hub() as hub, pytest.raises(SignInUnavailable, match="az login") as refused:
        hub.device_connection_string(device_id)
    assert refused.value.attempts == 1, "nobody signs in by waiting"


def test_a_sign_in_without_a_role_is_told_which_one(door: str, device_id: str) -> None:
    class Stranger:
        def get_token(self, *scopes: str, **options: object) -> object:
            from azure.core.credentials import AccessToken

            return AccessToken("of-somebody-else", int(time.time()) + 3600)

    from fwupdate_helpers.hub_access import SignedInAccess

    hub = Hub(kind="azure", access=SignedInAccess(door, Stranger()))  # type: ignore[arg-type]
    with hub, pytest.raises(HubUnauthorized, match="IoT Hub Data Contributor"):
        hub.device_connection_string(device_id)


def test_without_azure_identity_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv(CONNECTION_STRING_VARIABLE)
    monkeypatch.setenv(HOST_NAME_VARIABLE, "h.azure-devices.net")
    monkeypatch.setitem(sys.modules, "azure.identity", None)
    with pytest.raises(SignInUnavailable, match="pip install azure-identity"):
        connect_hub()


@pytest.mark.parametrize("name", ["https://h.azure-devices.net", "HostName=h;SharedAccessKey=eA=="])
def test_a_name_that_is_none_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(CONNECTION_STRING_VARIABLE)
    monkeypatch.setenv(HOST_NAME_VARIABLE, name)
    with pytest.raises(
        InvalidConnectionString, match="FWUPDATE_IOTHUB_HOSTNAME is no host"
    ) as refused:
        connect_hub()
    assert "eA==" not in repr(refused.value)
