"""Who may do what: shared access policies for services, keys for devices.

Every check follows one order: the token parses, is not expired, covers the target, its key is
found, the signature is right in constant time.
Source: Microsoft's "Control access to IoT Hub with shared access signatures"
(authenticate-authorize-sas.md, iot-hub-dev-guide-sas.md).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Final

from fwupdate_helpers.localhub.errors import UNAUTHORIZED, UNAUTHORIZED_ACCESS, HubError
from fwupdate_helpers.localhub.sas import SasError, SasToken
from fwupdate_helpers.localhub.store import Store

REGISTRY_READ: Final = "RegistryRead"
REGISTRY_WRITE: Final = "RegistryWrite"
SERVICE_CONNECT: Final = "ServiceConnect"
DEVICE_CONNECT: Final = "DeviceConnect"

OWNER_POLICY: Final = "iothubowner"
POLICIES: Final[Mapping[str, frozenset[str]]] = {
    OWNER_POLICY: frozenset({REGISTRY_READ, REGISTRY_WRITE, SERVICE_CONNECT, DEVICE_CONNECT}),
    "service": frozenset({SERVICE_CONNECT}),
    "device": frozenset({DEVICE_CONNECT}),
    "registryRead": frozenset({REGISTRY_READ}),
    "registryReadWrite": frozenset({REGISTRY_READ, REGISTRY_WRITE}),
}
"""The policies that every IoT Hub starts with, and their permissions."""

CONNACK_BAD_CLIENT_ID: Final = 2
CONNACK_UNAVAILABLE: Final = 3
CONNACK_BAD_USERNAME: Final = 4
CONNACK_UNAUTHORIZED: Final = 5


class ConnectionRefused(Exception):
    """A device may not connect.

    Attributes:
        return_code: The code of the CONNACK packet. Azure documents none; 5 for bad credentials
            and 3 for a disabled device are what clients report to see.
    """

    def __init__(self, return_code: int, reason: str) -> None:
        self.return_code = return_code
        super().__init__(reason)


class Authenticator:
    """Checks tokens against the policies' keys and the registry.

    Args:
        policy_keys: For each policy its keys, base64.
        host_names: The names that a token may call this hub by, with and without the port.
    """

    def __init__(
        self,
        policy_keys: Mapping[str, list[str]],
        *,
        host_names: frozenset[str],
        store: Store,
        clock: Callable[[], datetime],
    ) -> None:
        self._policy_keys = policy_keys
        self._host_names = host_names
        self._store = store
        self._clock = clock

    def check_service(
        self, authorization: str | None, path: str, permission: str | frozenset[str]
    ) -> None:
        """Let a request pass, or raise.

        Args:
            authorization: The ``Authorization`` header.
            path: The path of the request, decoded, for example ``/twins/d1``.
            permission: What the policy must allow; of several, one is enough.

        Raises:
            HubError: 401003 for a bad token, 401002 for a policy that lacks the permission.
        """
        if not authorization:
            raise HubError(UNAUTHORIZED, "The Authorization header is missing.")
        try:
            token = SasToken.parse(authorization)
            self._check_time(token)
            if not any(token.covers(name + path) for name in self._host_names):
                raise SasError("the token is for another resource or another hub")
            if not token.signed_by(self._policy_keys.get(token.policy or "", [])):
                raise SasError("the signature does not fit any key of the policy")
        except SasError as error:
            raise HubError(UNAUTHORIZED, f"Unauthorized: {error}.") from error
        wanted = {permission} if isinstance(permission, str) else permission
        if not wanted & POLICIES[token.policy or ""]:
            names = " or ".join(sorted(wanted))
            raise HubError(
                UNAUTHORIZED_ACCESS, f"The policy {token.policy} does not grant {names}."
            )

    def check_device(self, client_id: str, username: str | None, password: str | None) -> float:
        """Let a device connect, or raise.

        Returns:
            When its token expires, in Unix seconds.

        Raises:
            ConnectionRefused: With the code for the CONNACK packet.
        """
        if not client_id or "/" in client_id:
            raise ConnectionRefused(CONNACK_BAD_CLIENT_ID, "the client id is not a device id")
        host_name, device_id = _read_username(username)
        if device_id != client_id or host_name.lower() not in self._host_names:
            raise ConnectionRefused(
                CONNACK_BAD_USERNAME, "the username does not name this hub and the client id"
            )
        identity = self._store.find(device_id)
        try:
            token = SasToken.parse(password or "")
            self._check_time(token)
            if not token.covers(f"{host_name}/devices/{device_id}"):
                raise SasError("the token is for another device or another hub")
            if not token.signed_by(self._device_keys(token, identity.keys if identity else [])):
                raise SasError("no such device, or the signature does not fit its keys")
        except SasError as error:
            raise ConnectionRefused(CONNACK_UNAUTHORIZED, str(error)) from error
        if identity is None:
            raise ConnectionRefused(CONNACK_UNAUTHORIZED, "no such device")
        if not identity.enabled:
            raise ConnectionRefused(CONNACK_UNAVAILABLE, "the device is disabled")
        return token.expiry

    def _device_keys(self, token: SasToken, own_keys: list[str]) -> list[str]:
        if token.policy is None:
            return own_keys
        if DEVICE_CONNECT not in POLICIES.get(token.policy, frozenset()):
            return []
        return self._policy_keys[token.policy]

    def _check_time(self, token: SasToken) -> None:
        if token.expiry <= self._clock().timestamp():
            raise SasError("the token has expired")


def _read_username(username: str | None) -> tuple[str, str]:
    # {host}/{device id}/?api-version=…; a third path part would be a module.
    parts = (username or "").split("/")
    if len(parts) != 3 or not parts[2].startswith("?") or "api-version=" not in parts[2]:
        return "", ""
    return parts[0], parts[1]  # the SDK encodes neither
