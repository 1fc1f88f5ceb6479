"""The one switch between the local hub and Azure, and the SDK clients set up for either."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Collection
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn, ParamSpec, TypeVar

from fwupdate_helpers import attendees, kit_devices
from fwupdate_helpers.connection_string import Secret, read_device_key
from fwupdate_helpers.errors import DeviceNotFound, HubUnavailable
from fwupdate_helpers.hub_access import HubAccess, PolicyAccess, SignedInAccess
from fwupdate_helpers.hub_clients import HubClients
from fwupdate_helpers.hub_requests import retried
from fwupdate_helpers.kit_devices import KitDevices
from fwupdate_helpers.retry_log import RetryLog
from fwupdate_helpers.retry_rules import Operation
from fwupdate_helpers.settings import (
    CONNECTION_STRING_VARIABLE,
    HOST_NAME_VARIABLE,
    read_hub_setting,
    read_setting,
)
from fwupdate_helpers.websockets import check_port_443, websocket_options

if TYPE_CHECKING:
    from fwupdate_helpers.faults import Faults
    from fwupdate_helpers.trace import Trace


P = ParamSpec("P")
T = TypeVar("T")


def connect_hub() -> Hub:
    """Return the hub to work with: the one rule that all notebooks and apps follow.

    With a service connection string in ``FWUPDATE_IOTHUB_CONNECTION_STRING`` it is that IoT Hub on
    Azure; with a hub's name in ``FWUPDATE_IOTHUB_HOSTNAME`` it is that one, by the sign-in to Azure
    that azure-identity finds (``az login``). Either stands in the environment or in the ``.env``
    file of the repository's root. Otherwise it is the local hub, started when it does not run yet.
    A connection string that is set and empty means the local hub, whatever else is set.

    Raises:
        InvalidConnectionString: The string lacks a part or has a bad one.
        EnvFileRefused: Others can read the ``.env``, and it holds a key.
        SignInUnavailable: azure-identity is not installed.
        HubUnavailable: The local hub cannot start, or devices are to use WebSockets and it may not
            listen on port 443; the message tells what to do.

    Example:
        >>> hub = connect_hub()  # doctest: +SKIP
        >>> hub.registry.get_twin(hub.device_id("thermostat"))  # doctest: +SKIP
    """
    setting = read_hub_setting()
    if setting is None:
        return _connect_local_hub()
    if setting.connection_string:
        return Hub(kind="azure", connection_string=setting.connection_string)
    return Hub(kind="azure", access=SignedInAccess(setting.host_name))


def _connect_local_hub() -> Hub:
    from fwupdate_helpers.localhub import background, leases
    from fwupdate_helpers.localhub.errors import LocalHubError
    from fwupdate_helpers.localhub.statedir import StateDir

    state = StateDir.default()
    try:
        running = background.ensure_running(state)
        check_port_443(running)
        lease = leases.take(state)
    except LocalHubError as error:
        raise HubUnavailable(str(error)) from error
    hub = Hub(
        kind="local",
        connection_string=running.connection_string,
        device_host=running.device_host,
        ca_file=running.ca_file,
        tier=running.tier,
    )
    hub.release_on_close(lease)
    return hub


class Hub(HubClients):
    """An IoT hub, local or on Azure, and the SDK clients for it.

    Attributes:
        kind: ``"local"`` or ``"azure"``.
        host_name: The service's host; for the local hub with its port.
        retries: What had to be asked again by what has the hub and no log of its own: identities,
            fleets, `patiently`, `read_fleet`, a `Rollout`.

    Raises:
        InvalidConnectionString: The string lacks a part or has a bad one.
    """

    def __init__(
        self,
        *,
        kind: Literal["local", "azure"],
        connection_string: str = "",
        access: HubAccess | None = None,
        device_host: str | None = None,
        ca_file: Path | None = None,
        tier: str | None = None,
    ) -> None:
        connection_string = Secret(connection_string)
        access = access or PolicyAccess(connection_string)
        super().__init__(access, kind=kind, ca_file=ca_file, local_tier=tier)
        self._device_host = device_host or self.host_name.partition(":")[0]
        self._release: weakref.finalize[Any, Any] | None = None
        self._on_close: list[Callable[[], None]] = []
        self.retries = RetryLog()

    @property
    def device_options(self) -> dict[str, Any]:
        """Keyword arguments for ``IoTHubDeviceClient.create_from_connection_string``.

        With the setting ``FWUPDATE_IOTHUB_WEBSOCKETS=1``, devices use port 443 instead of 8883.
        """
        if self._ca_file is None:
            return websocket_options()
        trust = {"server_verification_cert": self._ca_file.read_text(encoding="ascii")}
        return trust | websocket_options()

    @property
    def device_host(self) -> str:
        """The ``HostName`` of a device connection string."""
        return self._device_host

    @property
    def attendee(self) -> str:
        """Whose devices these are: the beginning of their ids, and a tag; see `attendees`."""
        return attendees.attendee()

    def device_id(self, name: str) -> str:
        """Return a device id of your own: your user name, the notebook and `name`.

        It is the same in every run, so a second run meets the device of the first; another user
        or another notebook gets another device.
        """
        return attendees.device_id_of(self.attendee, name)

    def device_connection_string(self, device_id: str) -> str:
        """Return a device's connection string; create its identity when there is none.

        A new identity carries the kit's tags, by which `kit_devices` finds it again. The result is
        a text that shows its key masked when it is printed.

        Raises:
            HubUnauthorized: The hub refuses the credentials of this `Hub`.
            HubUnavailable: The hub does not answer.
        """
        key = str.__str__(self._key_of(device_id))
        return Secret(f"HostName={self._device_host};DeviceId={device_id};SharedAccessKey={key}")

    def _key_of(self, device_id: str) -> str:
        try:
            return self._read_key(device_id)
        except DeviceNotFound:
            made = kit_devices.create_if_missing(self, device_id)
        # Without one, somebody else was faster; theirs is as good.
        return made or self._read_key(device_id)

    def _read_key(self, device_id: str) -> str:
        return read_device_key(
            self._retried(device_id, lambda: self.registry.get_device(device_id))
        )

    def _retried(self, device_id: str, request: Callable[[], T]) -> T:
        return retried(
            request, operation=Operation.IDENTITY, device_id=device_id, on_retry=self.retries
        )

    def delete_device(self, device_id: str) -> None:
        """Delete a device identity with its twin; harmless when there is none.

        Raises:
            HubUnauthorized: The hub refuses the credentials of this `Hub`.
            HubUnavailable: The hub does not answer.
        """
        try:
            self._retried(device_id, lambda: self.registry.delete_device(device_id))
        except DeviceNotFound:
            return

    def patiently(self, call: Callable[P, T], *arguments: P.args, **keywords: P.kwargs) -> T:
        """Make a call of the SDK that does no harm when it comes twice, again where it may help.

        A hub on Azure grants 20 queries a minute, and refuses more (429): this waits as it asks,
        and `retries` has a line for each time. Not for direct methods: `invoke_firmware_update`
        looks at the twin before it repeats one.

        Args:
            call: A method of `registry`, `jobs` or `configurations` that reads or deletes.
            arguments: Its arguments.
            keywords: Its keyword arguments.

        Raises:
            FirmwareUpdateError: The last error; see `hub_errors`.

        Example:
            >>> job = hub.patiently(hub.jobs.get_scheduled_job, "my-job")  # doctest: +SKIP
        """
        return retried(lambda: call(*arguments, **keywords), on_retry=self.retries)

    # -- what the kit has made on a hub -----------------------------------------------------------

    @property
    def kit_tags(self) -> dict[str, str]:
        """The tags of each device twin that the kit makes: that it did, and for whom.

        >>> hub.kit_tags  # doctest: +SKIP
        {'createdBy': 'fwupdate-kit', 'createdFor': 'ada'}
        """
        return kit_devices.tags_of(self.attendee)

    def mark_as_mine(self, device_id: str) -> None:
        """Give the kit's tags to an identity that you have made with the SDK in a cell.

        Harmless when there is no such identity.

        Raises:
            FirmwareUpdateError: The hub does not answer, or refuses.
        """
        from azure.iot.hub.models import Twin

        tags = Twin(tags=self.kit_tags)
        try:
            self._retried(device_id, lambda: self.registry.update_twin(device_id, tags))
        except DeviceNotFound:
            return

    def kit_devices(self) -> KitDevices:
        """Return the ids of the identities that the kit has made here for you, from all notebooks.

        They have the kit's two tags, and your name at the beginning of their id. On Azure, what was
        made in the last seconds may be missing.

        Raises:
            FirmwareUpdateError: The hub does not answer, or refuses.
        """
        return kit_devices.find_kit_devices(self)

    def delete_kit_devices(self, show: Callable[[KitDevices], object] | None = None) -> KitDevices:
        """List the identities that `kit_devices` tells, then delete them with their twins.

        Stop their devices first. Nothing else on the hub is touched.

        Args:
            show: Shows the list before anything is deleted; None shows it below the cell. When it
                raises, nothing is deleted.

        Returns:
            What was deleted.

        Raises:
            FirmwareUpdateError: The hub does not answer, or refuses.

        Example:
            >>> hub.delete_kit_devices()  # doctest: +SKIP
        """
        return kit_devices.delete_kit_devices(self, show)

    # -- what only the local hub has --------------------------------------------------------------

    def derived_key(self, purpose: str) -> bytes:
        """Return 32 bytes that only those can make who have the access of this `Hub`.

        That is this hub's connection string, or, for a sign-in to Azure, the signing key of this
        user on this computer.

        Args:
            purpose: Each purpose has a key of its own.
        """
        return self._access.derived_key(purpose)

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
        self.close_clients()
        if self._release is not None:
            self._release()

    def __reduce__(self) -> NoReturn:
        raise TypeError("A Hub holds a key, so it is not copied. Call connect_hub() there.")

    def __enter__(self) -> Hub:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def masked_connection_string(self) -> str:
        """The service's connection string with its key masked."""
        return str(self._access.connection_string or f"HostName={self.host_name} (signed in)")

    @property
    def _description(self) -> str:
        if self.kind == "local":
            limits = f", with the limits of tier {self.tier}" if self.tier else ""
            return f"the local hub on this machine (no account, nothing leaves it){limits}"
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


def _delete(lease: Path) -> None:
    lease.unlink(missing_ok=True)


__all__ = [
    "CONNECTION_STRING_VARIABLE",
    "HOST_NAME_VARIABLE",
    "Hub",
    "KitDevices",
    "connect_hub",
    "read_setting",
]
