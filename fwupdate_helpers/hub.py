"""The one switch between the local hub and Azure, and the SDK clients set up for either."""

from __future__ import annotations

import getpass
import hmac
import os
import re
import time
import weakref
from collections.abc import Callable, Collection
from functools import cached_property
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

from fwupdate_helpers.connection_string import (
    Secret,
    read_device_key,
    read_service_key,
    read_service_string,
)
from fwupdate_helpers.errors import DeviceNotFound, HubUnavailable
from fwupdate_helpers.sdk_errors import hub_errors

if TYPE_CHECKING:
    from azure.iot.hub import IoTHubConfigurationManager, IoTHubJobManager, IoTHubRegistryManager
    from requests import Response

    from fwupdate_helpers.faults import Faults
    from fwupdate_helpers.trace import Trace

CONNECTION_STRING_VARIABLE = "FWUPDATE_IOTHUB_CONNECTION_STRING"
_REPOSITORY = Path(__file__).resolve().parents[1]
_TOKEN_SECONDS = 60
_MANAGERS = ("registry", "jobs", "configurations")
_LOCAL_TIMEOUT = (5.0, 120.0)
"""Seconds to connect, and to wait for an answer: a large image is synced to the disk first."""


def connect_hub() -> Hub:
    """Return the hub to work with: the one rule that all notebooks and apps follow.

    When the variable ``FWUPDATE_IOTHUB_CONNECTION_STRING`` holds a service connection string, in
    the environment or in the ``.env`` file of the repository's root, it is that IoT Hub on Azure.
    Otherwise it is the local hub, started when it does not run yet. A variable that is set and
    empty means the local hub, whatever ``.env`` says.

    Raises:
        InvalidConnectionString: The string lacks a part or has a bad one.
        HubUnavailable: The local hub cannot start; the message tells what to do.

    Example:
        >>> hub = connect_hub()  # doctest: +SKIP
        >>> hub.registry.get_twin(hub.device_id("thermostat"))  # doctest: +SKIP
    """
    if given := read_setting(CONNECTION_STRING_VARIABLE):
        return Hub(kind="azure", connection_string=given)
    return _connect_local_hub()


def read_setting(name: str) -> str:
    """Return a variable of the environment, else of the ``.env`` in the repository's root."""
    given = os.environ.get(name)
    if given is None:
        given = _from_env_file(_REPOSITORY, name)
    return (given or "").strip()


def _from_env_file(folder: Path, name: str = CONNECTION_STRING_VARIABLE) -> str | None:
    file = folder / ".env"
    if not file.is_file() or not (folder / "pyproject.toml").is_file():
        return None
    if os.name == "posix" and file.stat().st_uid != os.getuid():
        return None
    from dotenv import dotenv_values

    return dotenv_values(file, encoding="utf-8-sig").get(name)


def _connect_local_hub() -> Hub:
    from fwupdate_helpers.localhub import background, leases
    from fwupdate_helpers.localhub.errors import LocalHubError
    from fwupdate_helpers.localhub.statedir import StateDir

    state = StateDir.default()
    try:
        running = background.ensure_running(state)
        lease = leases.take(state)
    except LocalHubError as error:
        raise HubUnavailable(str(error)) from error
    hub = Hub(
        kind="local",
        connection_string=running.connection_string,
        device_host=running.device_host,
        ca_file=running.ca_file,
    )
    hub.release_on_close(lease)
    return hub


class Hub:
    """An IoT hub, local or on Azure, and the SDK clients for it.

    Attributes:
        kind: ``"local"`` or ``"azure"``.
        host_name: The service's host; for the local hub with its port.
    """

    def __init__(
        self,
        *,
        kind: Literal["local", "azure"],
        connection_string: str,
        device_host: str | None = None,
        ca_file: Path | None = None,
    ) -> None:
        self.kind = kind
        self.host_name = read_service_string(connection_string)
        self._connection_string = Secret(connection_string)
        self._device_host = device_host or self.host_name.partition(":")[0]
        self._ca_file = ca_file
        self._release: weakref.finalize[Any, Any] | None = None
        self._on_close: list[Callable[[], None]] = []

    @cached_property
    def registry(self) -> IoTHubRegistryManager:
        """The SDK's service client: identities, twins and direct methods."""
        return self.new_registry()

    @cached_property
    def jobs(self) -> IoTHubJobManager:
        """The SDK's client for scheduled jobs: one method or twin patch for many devices.

        As with `registry`, the SDK's own retries are off.

        Example:
            >>> hub.jobs.get_scheduled_job("my-job").status  # doctest: +SKIP
            'completed'
        """
        from azure.iot.hub import IoTHubJobManager

        return self._set_up(IoTHubJobManager.from_connection_string(self._connection_string))

    @cached_property
    def configurations(self) -> IoTHubConfigurationManager:
        """The SDK's client for automatic device configurations, set up like `registry`."""
        from azure.iot.hub import IoTHubConfigurationManager

        string = self._connection_string
        return self._set_up(IoTHubConfigurationManager.from_connection_string(string))

    def new_registry(self) -> IoTHubRegistryManager:
        """Return a service client of your own, for a thread that works in the background.

        Close it with ``protocol.close()`` in the thread that has used it: the SDK keeps one
        connection for each thread.

        The SDK's own retries are off, so that there is one policy, and each retry is seen:
        `RetryPolicy`. The SDK repeats GET, PUT and DELETE four times in 4.9 s by itself, silently;
        two policies on top of each other multiply (8 tries become 32), and after the last one the
        SDK drops the answer with its error code and its ``Retry-After`` (measured, msrest 0.7.1).
        """
        from azure.iot.hub import IoTHubRegistryManager

        return self._set_up(IoTHubRegistryManager.from_connection_string(self._connection_string))

    def _set_up(self, manager: Any) -> Any:
        config = manager.protocol.config
        # Without it the SDK opens a TLS connection for every request.
        config.keep_alive = True
        _switch_retries_off(config.retry_policy)
        if self._ca_file is not None:
            config.connection.verify = str(self._ca_file)
            # A proxy of the network cannot reach this machine's loopback addresses.
            config.proxies.use_env_settings = not self.host_name.startswith("127.")
        return manager

    @property
    def device_options(self) -> dict[str, Any]:
        """Keyword arguments for ``IoTHubDeviceClient.create_from_connection_string``."""
        if self._ca_file is None:
            return {}
        return {"server_verification_cert": self._ca_file.read_text(encoding="ascii")}

    @property
    def device_host(self) -> str:
        """The ``HostName`` of a device connection string."""
        return self._device_host

    def device_id(self, name: str) -> str:
        """Return a device id of your own: your user name, the notebook and `name`.

        It is the same in every run, so a second run meets the device of the first; another user
        or another notebook gets another device.
        """
        notebook = Path(os.environ.get("JPY_SESSION_NAME", "")).stem
        owner, own = _words(_user_name(), notebook), _words(name)
        return f"{owner[: 127 - len(own)]}-{own}".strip("-")[:128]

    def device_connection_string(self, device_id: str) -> str:
        """Return a device's connection string; create its identity when there is none.

        The result is a text that shows its key masked when it is printed.

        Raises:
            HubUnauthorized: The hub refuses the connection string of this `Hub`.
            HubUnavailable: The hub does not answer.
        """
        key = read_device_key(self._retried(device_id, lambda: self._get_or_create(device_id)))
        return Secret(f"HostName={self._device_host};DeviceId={device_id};SharedAccessKey={key}")

    def _get_or_create(self, device_id: str) -> Any:
        from msrest.exceptions import HttpOperationError

        try:
            return self.registry.get_device(device_id)
        except HttpOperationError as error:
            if error.response.status_code != 404:
                raise
            return self._create_device(device_id)

    def _create_device(self, device_id: str) -> Any:
        from msrest.exceptions import HttpOperationError

        try:
            return self.registry.create_device_with_sas(device_id, None, None, "enabled")
        except HttpOperationError as error:
            if error.response.status_code != 409:
                raise
            # Somebody else was faster; theirs is as good.
            return self.registry.get_device(device_id)

    def delete_device(self, device_id: str) -> None:
        """Delete a device identity with its twin; harmless when there is none.

        Raises:
            HubUnauthorized: The hub refuses the connection string of this `Hub`.
            HubUnavailable: The hub does not answer.
        """
        try:
            self._retried(device_id, lambda: self.registry.delete_device(device_id))
        except DeviceNotFound:
            return

    def _retried(self, device_id: str, request: Callable[[], Any]) -> Any:
        """Make a request that does no harm when it comes twice."""
        from fwupdate_helpers.retries import Operation, RetryPolicy

        def once() -> Any:
            with hub_errors(device_id):
                return request()

        return RetryPolicy().call(once, operation=Operation.IDENTITY, device_id=device_id)

    def local_request(self, method: str, path: str, body: BinaryIO | None = None) -> Response:
        """Send a request to a route that the local hub has, and an IoT Hub on Azure does not.

        Args:
            path: Percent-encoded.
            body: Sent as it is read, never held in memory as a whole.

        Raises:
            OSError: The hub does not answer. Its text may hold the path.
        """
        import requests

        from fwupdate_helpers.localhub.sas import make_token

        parts = dict(part.split("=", 1) for part in self._connection_string.split(";"))
        key, policy = parts["SharedAccessKey"], parts["SharedAccessKeyName"]
        token = make_token(self.host_name, key, int(time.time()) + _TOKEN_SECONDS, policy)
        with requests.Session() as session:
            # Neither a proxy nor a .netrc of the network is meant for this machine's own hub.
            session.trust_env = False
            return session.request(
                method,
                f"https://{self.host_name}{path}",
                data=body,
                headers={"Authorization": token},
                verify=str(self._ca_file),
                timeout=_LOCAL_TIMEOUT,
                allow_redirects=False,
            )

    def derived_key(self, purpose: str) -> bytes:
        """Return 32 bytes that only those can make who have this hub's connection string.

        Args:
            purpose: Each purpose has a key of its own.
        """
        return hmac.digest(read_service_key(self._connection_string), purpose.encode(), "sha256")

    def trace(
        self, device_id: str | None = None, *, after: int = 0, kinds: Collection[str] | None = None
    ) -> Trace:
        """Return the last messages that passed the local hub, oldest first, without secrets.

        Args:
            device_id: Of this device alone; None means all.
            after: Only messages with a greater number, for example `Trace.last` of an earlier look.
            kinds: Only messages about these, of `fwupdate_helpers.trace.KINDS`.

        Returns:
            Rows that a notebook shows as a table. On Azure there are none, and its note tells why.

        Raises:
            ValueError: A kind that there is not.
            HubUnavailable: The local hub does not answer.
        """
        from fwupdate_helpers.trace import read_trace

        return read_trace(self, device_id, after=after, kinds=kinds)

    def clear_trace(self) -> None:
        """Let the local hub forget the messages so far; their numbers go on."""
        from fwupdate_helpers import own_routes

        if self.kind == "local":
            own_routes.send(self, "DELETE", "/$localhub/trace")

    @property
    def faults(self) -> Faults:
        """What goes wrong at the local hub on purpose; ``available`` is False on Azure."""
        from fwupdate_helpers.faults import Faults

        return Faults(self)

    def release_on_close(self, lease: Path) -> None:
        """Delete `lease` when this object is closed or collected, at the latest at exit."""
        self._release = weakref.finalize(self, _delete, lease)

    def call_on_close(self, call: Callable[[], None]) -> Callable[[], None]:
        """Have `call` called once, when this object is closed; return what takes that back.

        For what works in the background with this hub, and must end with it.
        """
        self._on_close.append(call)

        def forget() -> None:
            if call in self._on_close:
                self._on_close.remove(call)

        return forget

    def close(self) -> None:
        """Close this kernel's service connections; the local hub runs on for the others.

        What works in the background with this hub ends first. A `SimulatedDevice` has connections
        of its own, and its own ``stop``.
        """
        while self._on_close:
            self._on_close.pop()()
        for name in _MANAGERS:
            if name in self.__dict__:
                self.__dict__.pop(name).protocol.close()
        if self._release is not None:
            self._release()

    def __enter__(self) -> Hub:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def masked_connection_string(self) -> str:
        """The service's connection string with its key masked."""
        return str(self._connection_string)

    @property
    def _description(self) -> str:
        if self.kind == "local":
            return "the local hub on this machine (no account, nothing leaves it)"
        return "an IoT Hub on Azure (its quotas and prices apply)"

    def __repr__(self) -> str:
        return f"Hub({self.host_name}: {self._description})"

    def _repr_html_(self) -> str:
        rows = {
            "Connected to": self._description,
            "Host": self.host_name,
            "Devices that you create here": self.device_id("") + "-…",
        }
        cells = "".join(
            f'<tr><th scope="row" style="text-align:left">{escape(name)}</th>'
            f'<td style="text-align:left">{escape(value)}</td></tr>'
            for name, value in rows.items()
        )
        return f"<table>{cells}</table>"


def _switch_retries_off(sdk_policy: Any) -> None:
    sdk_policy.retries = 0
    # Else a server error counts as a retry that was not allowed, and comes without its answer.
    sdk_policy.policy.status_forcelist = frozenset()
    sdk_policy.policy.read = False  # and a read that takes too long as a lost connection


def _words(*texts: str) -> str:
    words = (re.sub(r"[^A-Za-z0-9]+", "-", text).strip("-") for text in texts)
    return "-".join(word for word in words if word)


def _user_name() -> str:
    # On a JupyterHub everybody is the same user of a container.
    if name := os.environ.get("JUPYTERHUB_USER"):
        return name
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):  # a container's user id without a name
        # Windows has no such ids; a service that runs without USERNAME gets here.
        return f"user{os.getuid()}" if hasattr(os, "getuid") else "user"


def _delete(lease: Path) -> None:
    lease.unlink(missing_ok=True)


__all__ = ["CONNECTION_STRING_VARIABLE", "Hub", "connect_hub"]
