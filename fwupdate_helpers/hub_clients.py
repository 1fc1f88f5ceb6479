"""The clients of a hub's service side: those of the SDK, all set up alike, and a plain one.

Those of the SDK are made on first use, keep one connection for each thread, and have no retries of
their own.
"""

from __future__ import annotations

import time
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final, Literal, TypeVar

from fwupdate_helpers.connection_string import Secret, read_policy
from fwupdate_helpers.hub_access import HubAccess
from fwupdate_helpers.hub_pace import FREE_PACE, METERED_PACE, HubPace, note_pace, read_tier

if TYPE_CHECKING:
    from azure.iot.hub import IoTHubConfigurationManager, IoTHubJobManager, IoTHubRegistryManager
    from requests import Response

T = TypeVar("T")

_TOKEN_SECONDS = 60
_LOCAL_TIMEOUT = (5.0, 120.0)
"""Seconds to connect, and to wait for an answer: a large image is synced to the disk first."""
_MANAGERS: Final = ("registry", "jobs", "configurations")


class HubClients:
    """The service clients of one hub.

    Args:
        access: The way into the hub.
        kind: ``"local"`` or ``"azure"``.
        ca_file: The CA of a local hub; None trusts what the system trusts.
        local_tier: The tier of a local hub that has one.
    """

    def __init__(
        self,
        access: HubAccess,
        *,
        kind: Literal["local", "azure"],
        ca_file: Path | None,
        local_tier: str | None,
    ) -> None:
        self.kind = kind
        self._local_tier = local_tier
        self.host_name = access.host_name
        self._access = access
        self._ca_file = ca_file

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

        return self._new_manager(IoTHubJobManager)

    @cached_property
    def configurations(self) -> IoTHubConfigurationManager:
        """The SDK's client for automatic device configurations, set up like `registry`."""
        from azure.iot.hub import IoTHubConfigurationManager

        return self._new_manager(IoTHubConfigurationManager)

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

        return self._new_manager(IoTHubRegistryManager)

    def _new_manager(self, kind: type[T]) -> T:
        manager = self._access.new_manager(kind)
        note_pace(manager, self.pace)
        _set_up(manager, host_name=self.host_name, ca_file=self._ca_file)
        return manager

    @property
    def pace(self) -> HubPace:
        """How often it may be asked. Azure counts, and so does a local hub that has a tier.

        Example:
            >>> time.sleep(hub.pace.query)  # doctest: +SKIP
        """
        return METERED_PACE if self.kind == "azure" or self._local_tier else FREE_PACE

    @cached_property
    def tier(self) -> str | None:
        """The hub's tier, such as ``F1``, where it tells: a local hub that has one.

        Where it runs as if on Azure it is asked; a hub that is on Azure answers with an error.
        """
        return self._local_tier if self.kind == "local" else read_tier(self)

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

        policy, key = read_policy(self._access.connection_string or "")
        expiry = int(time.time()) + _TOKEN_SECONDS
        token = Secret(make_token(self.host_name, str.__str__(key), expiry, policy))
        with requests.Session() as session:
            # Neither a proxy nor a .netrc of the network is meant for this machine's own hub.
            session.trust_env = self._ca_file is None
            return session.request(
                method,
                f"https://{self.host_name}{path}",
                data=body,
                headers={"Authorization": str.__str__(token)},
                verify=True if self._ca_file is None else str(self._ca_file),
                timeout=_LOCAL_TIMEOUT,
                allow_redirects=False,
            )

    def close_clients(self) -> None:
        """Close the service connections that this object has made; it makes new ones if asked."""
        for name in _MANAGERS:
            if name in self.__dict__:
                self.__dict__.pop(name).protocol.close()


def _set_up(manager: Any, *, host_name: str, ca_file: Path | None) -> None:
    """Set a service client of the SDK up.

    Args:
        manager: A registry, job or configuration manager.
        host_name: The service's host.
        ca_file: The CA of a local hub; None trusts what the system trusts.
    """
    config = manager.protocol.config
    # Without it the SDK opens a TLS connection for every request.
    config.keep_alive = True
    _switch_retries_off(config.retry_policy)
    if ca_file is not None:
        config.connection.verify = str(ca_file)
        # A proxy of the network cannot reach this machine's loopback addresses.
        config.proxies.use_env_settings = not host_name.startswith("127.")


def _switch_retries_off(sdk_policy: Any) -> None:
    sdk_policy.retries = 0
    # Else a server error counts as a retry that was not allowed, and comes without its answer.
    sdk_policy.policy.status_forcelist = frozenset()
    sdk_policy.policy.read = False  # and a read that takes too long as a lost connection
