"""The SDK's service clients of a hub, made on first use and all set up alike.

They keep one connection for each thread, and have no retries of the SDK's own.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from fwupdate_helpers.hub_access import HubAccess

if TYPE_CHECKING:
    from azure.iot.hub import IoTHubConfigurationManager, IoTHubJobManager, IoTHubRegistryManager

T = TypeVar("T")

_MANAGERS: Final = ("registry", "jobs", "configurations")


class HubClients:
    """The service clients of one hub.

    Args:
        access: The way into the hub.
        ca_file: The CA of a local hub; None trusts what the system trusts.
    """

    def __init__(self, access: HubAccess, ca_file: Path | None) -> None:
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
        _set_up(manager, host_name=self.host_name, ca_file=self._ca_file)
        return manager

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
