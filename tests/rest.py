"""Bare HTTPS requests to the hub's service endpoint, with any credential and any body."""

from __future__ import annotations

import http.client
import json
import re
import sqlite3
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from fwupdate_helpers.localhub.sas import make_token
from tests.support import HubProcess

API_VERSION = "api-version=2021-04-12"
TRACKING_ID = r"[0-9a-f]{32}-G:0-TimeStamp:\d\d/\d\d/\d{4} \d\d:\d\d:\d\d"


@dataclass(frozen=True)
class Reply:
    """An answer of the hub."""

    status: int
    headers: http.client.HTTPMessage
    text: str

    @property
    def content(self) -> Any:
        return json.loads(self.text)

    @property
    def error(self) -> str | None:
        """The name of IoT Hub's error."""
        return self.headers["iothub-errorcode"]


def policy_key(hub: HubProcess, policy: str, which: int = 0) -> str:
    """Return a key of a shared access policy."""
    config = json.loads((hub.state_dir / "config.json").read_text(encoding="utf-8"))
    return str(config["policies"][policy][which])


def service_host(hub: HubProcess) -> str:
    return f"{hub.ready['device_host']}:{hub.ready['service_port']}"


def token(
    hub: HubProcess,
    policy: str = "iothubowner",
    *,
    resource: str | None = None,
    key: str | None = None,
    valid: int = 600,
) -> str:
    """Sign a token as a service does."""
    key = key or policy_key(hub, policy)
    return make_token(resource or service_host(hub), key, int(time.time()) + valid, policy)


def call(
    hub: HubProcess,
    method: str,
    path: str,
    body: Any = None,
    *,
    policy: str = "iothubowner",
    authorization: str | None = None,
    query: str = API_VERSION,
    headers: dict[str, str] | None = None,
) -> Reply:
    """Send a request; `body` is JSON content, or bytes to send as they are.

    An empty `authorization` sends no such header; without one, the key of `policy` signs.
    """
    connection = http.client.HTTPSConnection(
        service_host(hub), timeout=30, context=ssl.create_default_context(cafile=hub.ca_file)
    )
    raw = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    authorization = token(hub, policy) if authorization is None else authorization
    sent = {"Authorization": authorization} if authorization else {}
    try:
        connection.request(
            method, f"{path}?{query}" if query else path, raw, {**sent, **(headers or {})}
        )
        response = connection.getresponse()
        return Reply(response.status, response.headers, response.read().decode())
    finally:
        connection.close()


def device_path(device_id: str) -> str:
    return f"/devices/{quote(device_id, safe='')}"


def twin_path(device_id: str) -> str:
    return f"/twins/{quote(device_id, safe='')}"


def create_device(hub: HubProcess, device_id: str, **fields: Any) -> str:
    """Create an identity; return its primary key."""
    reply = call(hub, "PUT", device_path(device_id), {"deviceId": device_id, **fields})
    assert reply.status == 200, reply.text
    return str(reply.content["authentication"]["symmetricKey"]["primaryKey"])


def assert_error(reply: Reply, code: int, name: str) -> None:
    """Check status, header and the body that all but the methods have."""
    assert (reply.status, reply.error) == (code // 1000, name), reply.text
    assert list(reply.content) == ["Message", "ExceptionMessage"]
    assert reply.content["Message"].startswith(f"ErrorCode:{name};")
    assert re.fullmatch(f"Tracking ID:{TRACKING_ID}", reply.content["ExceptionMessage"])


def assert_method_error(reply: Reply, code: int, name: str) -> None:
    """Check status, header and the body of a method call's error: JSON inside the message."""
    assert (reply.status, reply.error) == (code // 1000, name), reply.text
    assert reply.content["ExceptionMessage"] == ""
    details = json.loads(reply.content["Message"])
    assert details["errorCode"] == code
    assert re.fullmatch(TRACKING_ID, details["trackingId"])


def change_desired(hub: HubProcess, device_id: str, patch: dict[str, Any]) -> int:
    """Change desired properties as a service does; return their version."""
    reply = call(hub, "PATCH", twin_path(device_id), {"properties": {"desired": patch}})
    assert reply.status == 200, reply.text
    return int(reply.content["properties"]["desired"]["$version"])


def telemetry_count(hub: HubProcess, device_id: str) -> int:
    """Return how many messages of a device the hub has counted, read from its database."""
    database = sqlite3.connect(f"file:{hub.state_dir / 'hub.db'}?mode=ro", uri=True)
    try:
        query = "SELECT telemetry_count FROM devices WHERE device_id = ?"
        return int(database.execute(query, (device_id,)).fetchone()[0])
    finally:
        database.close()


def wait_for(condition: Callable[[], bool], *, seconds: float = 10) -> None:
    """Wait until a condition holds that no event announces."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)
