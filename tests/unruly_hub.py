"""A way to the local hub that fails as asked: it refuses requests, or loses them or the answers."""

from __future__ import annotations

import http.client
import json
import ssl
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from fwupdate_helpers.localhub.statedir import StateDir
from fwupdate_helpers.localhub.tls import server_context
from tests.rest import policy_key, service_host, token
from tests.support import HubProcess

_PAGING = ("x-ms-max-item-count", "x-ms-continuation", "x-ms-item-type")


@dataclass(frozen=True)
class Fault:
    """What happens to one request.

    Attributes:
        status: The answer's HTTP status; None cuts the connection instead.
        name: The name of IoT Hub's error code.
        headers: More headers of the answer.
        reaches_hub: Whether the request is passed on before.
    """

    status: int | None = None
    name: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    reaches_hub: bool = False


THROTTLED = Fault(429, "ThrottlingException")
BUSY = Fault(503, "ServiceUnavailable")
LOST_REQUEST, LOST_ANSWER = Fault(), Fault(reaches_hub=True)


class UnrulyHub:
    """An HTTPS server between a service and a hub.

    Attributes:
        faults: What happens to the next requests, one after the other; then all goes well.
        requests: What was asked for, for example ``GET /twins/device-01``.
    """

    def __init__(self, hub: HubProcess) -> None:
        self.hub = hub
        self.faults: list[Fault | None] = []
        self.requests: list[str] = []
        self._server = ThreadingHTTPServer((hub.ready["device_host"], 0), self._handler())
        context = server_context(StateDir(hub.state_dir))
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        unruly = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                unruly.requests.append(f"{self.command} {self.path.partition('?')[0]}")
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                fault = unruly.faults.pop(0) if unruly.faults else None
                if fault is None:
                    self.answer(*unruly.forward(self, body))
                    return
                if fault.reaches_hub:
                    unruly.forward(self, body)
                if fault.status is None:
                    self.close_connection = True
                    return
                content = json.dumps({"Message": f"ErrorCode:{fault.name};it is unruly"})
                headers = {"iothub-errorcode": fault.name} if fault.name else {}
                self.answer(fault.status, headers | fault.headers, content.encode())

            do_GET = do_PUT = do_POST = do_PATCH = do_DELETE = handle_any

            def answer(self, status: int, headers: dict[str, str], content: bytes) -> None:
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *arguments: Any) -> None:
                """Keep the test's output clean."""

        return Handler

    def forward(
        self, request: BaseHTTPRequestHandler, body: bytes
    ) -> tuple[int, dict[str, str], bytes]:
        """Ask the hub itself."""
        connection = http.client.HTTPSConnection(
            service_host(self.hub),
            timeout=30,
            context=ssl.create_default_context(cafile=self.hub.ca_file),
        )
        headers = {
            name: value
            for name in ("If-Match", "Content-Type", *_PAGING)
            if (value := request.headers.get(name))
        }
        # A token names the host that it is for.
        headers["Authorization"] = token(self.hub)
        try:
            connection.request(request.command, request.path, body or None, headers)
            response = connection.getresponse()
            kept = {
                name: value
                for name in ("iothub-errorcode", "Content-Type", *_PAGING)
                if (value := response.headers.get(name))
            }
            return response.status, kept, response.read()
        finally:
            connection.close()

    @property
    def connection_string(self) -> str:
        """The service connection string that leads here."""
        host, port = self._server.server_address[:2]
        key = policy_key(self.hub, "iothubowner")
        return f"HostName={host}:{port};SharedAccessKeyName=iothubowner;SharedAccessKey={key}"

    def __enter__(self) -> UnrulyHub:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
