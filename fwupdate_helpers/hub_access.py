"""How a service gets into a hub: with a shared access policy, or signed in to Azure."""

from __future__ import annotations

import hmac
import re
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from fwupdate_helpers.connection_string import Secret, read_service_key, read_service_string
from fwupdate_helpers.errors import InvalidConnectionString, SignInUnavailable

if TYPE_CHECKING:
    from azure.core.credentials import TokenCredential

T = TypeVar("T")

_HOST: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?(:[0-9]{1,5})?")


class HubAccess(Protocol):
    """A way into a hub.

    Attributes:
        host_name: The service's host.
        connection_string: The policy's, shown masked, or None without one.
    """

    host_name: str
    connection_string: Secret | None

    def new_manager(self, kind: type[T]) -> T:
        """Return a client of one of the SDK's manager classes."""

    def derived_key(self, purpose: str) -> bytes:
        """Return 32 bytes that only those can make who have this access."""


class PolicyAccess:
    """Access with the connection string of a shared access policy.

    Raises:
        InvalidConnectionString: The string lacks a part or has a bad one.
    """

    def __init__(self, connection_string: str) -> None:
        connection_string = Secret(connection_string)
        self.connection_string: Secret | None = connection_string
        self.host_name = read_service_string(connection_string)

    def new_manager(self, kind: type[T]) -> T:
        """Return a client of one of the SDK's manager classes."""
        made: Any = kind.from_connection_string(self.connection_string)  # type: ignore[attr-defined]
        # All that the SDK does with this text is to show it, with its key.
        made.protocol.config.credentials._strrep = str(self.connection_string)
        manager: T = made
        return manager

    def derived_key(self, purpose: str) -> bytes:
        """Return 32 bytes that only those can make who have the connection string."""
        return hmac.digest(
            read_service_key(self.connection_string or ""), purpose.encode(), "sha256"
        )

    def __repr__(self) -> str:
        return f"PolicyAccess({self.connection_string})"


class SignedInAccess:
    """Access by a sign-in to Azure: no key of the hub is needed, roles say who may do what.

    Args:
        host_name: The hub's.
        credential: Of azure-identity; None takes its `DefaultAzureCredential`: environment,
            managed identity, or whoever is signed in with ``az login``.

    Raises:
        InvalidConnectionString: It is no host name.
        SignInUnavailable: azure-identity is not installed.
    """

    connection_string: Secret | None = None

    def __init__(self, host_name: str, credential: TokenCredential | None = None) -> None:
        if not _HOST.fullmatch(host_name):
            raise InvalidConnectionString(
                "HostName",
                "FWUPDATE_IOTHUB_HOSTNAME is no host name. It is your hub's name alone, for "
                "example my-hub.azure-devices.net; a connection string goes into "
                "FWUPDATE_IOTHUB_CONNECTION_STRING.",
            )
        self.host_name = host_name
        self._credential = credential or _default_credential()

    def new_manager(self, kind: type[T]) -> T:
        """Return a client of one of the SDK's manager classes."""
        made: T = kind.from_token_credential(self.host_name, self._credential)  # type: ignore[attr-defined]
        return made

    def derived_key(self, purpose: str) -> bytes:
        """Return 32 bytes that only this user on this computer can make, with the signing key."""
        from fwupdate_helpers.app_boards import devices_folder
        from fwupdate_helpers.firmware.keys import demo_signing_key

        key = demo_signing_key(devices_folder()).private_bytes_raw()
        return hmac.digest(key, f"{self.host_name} {purpose}".encode(), "sha256")

    def __repr__(self) -> str:
        return f"SignedInAccess({self.host_name})"


def _default_credential() -> TokenCredential:
    try:
        from azure.identity import DefaultAzureCredential
    except ImportError as error:
        raise SignInUnavailable(
            "FWUPDATE_IOTHUB_HOSTNAME needs the package azure-identity, which is not installed "
            "here: pip install azure-identity. Or set FWUPDATE_IOTHUB_CONNECTION_STRING."
        ) from error
    credential: TokenCredential = DefaultAzureCredential()
    return credential
