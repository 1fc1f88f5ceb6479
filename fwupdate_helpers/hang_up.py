"""Ends the requests of a service client from another thread: whoever waits for an answer is free.

``requests`` has no way to do that, and closing its session leaves a request that waits where it is.
So each connection of such a client is noted as it is made, and shut down when it is to end.
"""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection

if TYPE_CHECKING:
    from azure.iot.hub import IoTHubRegistryManager
    from requests import PreparedRequest, Response, Session


class HungUp(Exception):
    """A request was ended by `HangUp.end`, or came after it; no error of the hub."""


class HangUp:
    """Ends the requests of service clients, those that wait and those that would come.

    Example:
        >>> hang_up = HangUp()
        >>> hang_up.attach(registry)  # doctest: +SKIP
        >>> hang_up.end()  # in another thread: requests raise `HungUp` now  # doctest: +SKIP
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sockets: set[socket.socket] = set()
        self._has_ended = False

    @property
    def has_ended(self) -> bool:
        """Whether `end` was called."""
        return self._has_ended

    def attach(self, registry: IoTHubRegistryManager) -> None:
        """Let this object end the requests that a service client makes from now on."""
        registry.protocol.config.session_configuration_callback = self._prepare

    def end(self) -> None:
        """End the requests that wait, and refuse those that come; harmless when it is done."""
        with self._lock:
            self._has_ended = True
            for one in self._sockets:
                with suppress(OSError):  # the other side was faster
                    one.shutdown(socket.SHUT_RDWR)

    def check(self) -> None:
        """Raise `HungUp` once `end` was called."""
        if self._has_ended:
            raise HungUp("The requests of this client have been ended.")

    def note(self, connected: socket.socket) -> socket.socket:
        """Note a new connection; return a handle of it, for `forget`.

        The handle is a copy: the TLS handshake takes the socket itself away from its owner.
        """
        handle = connected.dup()
        with self._lock:
            ended = self._has_ended
            if not ended:
                self._sockets.add(handle)
        if ended:
            handle.close()
            self.check()
        return handle

    def forget(self, handle: socket.socket) -> None:
        """Let go of a connection that is closed."""
        with self._lock:
            self._sockets.discard(handle)
        handle.close()

    def _prepare(self, session: Session, config: Any, local: Any, **options: Any) -> dict[str, Any]:
        """Give a session of the SDK connections that can be ended; the SDK asks before it sends."""
        if not isinstance(session.adapters["https://"], _Adapter):
            for scheme in ("https://", "http://"):
                session.mount(scheme, _Adapter(self, max_retries=config.retry_policy()))
        return options


class _Adapter(HTTPAdapter):
    def __init__(self, hang_up: HangUp, **options: Any) -> None:
        self._hang_up = hang_up
        self._pools = _pool_classes(hang_up)
        super().__init__(**options)

    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        super().init_poolmanager(*arguments, **options)
        self.poolmanager.pool_classes_by_scheme = self._pools

    def proxy_manager_for(self, *arguments: Any, **options: Any) -> Any:
        manager = super().proxy_manager_for(*arguments, **options)
        manager.pool_classes_by_scheme = self._pools
        return manager

    def send(self, request: PreparedRequest, *arguments: Any, **options: Any) -> Response:
        self._hang_up.check()
        try:
            return super().send(request, *arguments, **options)
        except Exception as error:
            if self._hang_up.has_ended:
                raise HungUp("The request was ended before its answer came.") from error
            raise


def _pool_classes(hang_up: HangUp) -> dict[str, type[HTTPConnectionPool]]:
    """Return urllib3's pools, with connections that `hang_up` can end."""

    class Noted(HTTPConnection):
        _handle: socket.socket | None = None

        def _new_conn(self) -> socket.socket:  # urllib3 has no public place between TCP and TLS
            connected: socket.socket = super()._new_conn()
            try:
                self._handle = hang_up.note(connected)
            except HungUp:
                connected.close()
                raise
            return connected

        def close(self) -> None:
            super().close()
            handle, self._handle = self._handle, None
            if handle is not None:
                hang_up.forget(handle)

    class NotedSecure(Noted, HTTPSConnection):
        pass

    class Pool(HTTPConnectionPool):
        ConnectionCls = Noted

    class SecurePool(HTTPSConnectionPool):
        ConnectionCls = NotedSecure

    return {"http": Pool, "https": SecurePool}


__all__ = ["HangUp", "HungUp"]
