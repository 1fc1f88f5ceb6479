"""Device identities and twins as the REST API writes them, and identities as it reads them.

Source: Microsoft's service.json (API version 2021-04-12).
"""

from __future__ import annotations

import re
from typing import Any, Final

from fwupdate_helpers.localhub.errors import ARGUMENT_INVALID, HubError
from fwupdate_helpers.localhub.sas import is_key, new_key
from fwupdate_helpers.localhub.store import Identity
from fwupdate_helpers.localhub.twins import Twin

Json = dict[str, Any]

_AUTHENTICATION_TYPES = ("sas", "selfSigned", "certificateAuthority", "none")
_DEVICE_ID: Final = re.compile(r"[A-Za-z0-9\-.%_*?!(),:=@$']{1,128}")


def check_device_id(device_id: Any) -> str:
    """Return a device id; raise `HubError` 400004 when it is none."""
    if not isinstance(device_id, str) or not _DEVICE_ID.fullmatch(device_id):
        raise HubError(
            ARGUMENT_INVALID,
            "A device id has 1 to 128 ASCII letters, digits and - . % _ * ? ! ( ) , : = @ $ '",
        )
    return device_id


def identity_fields(body: Json, before: Identity | None) -> Json:
    status = body.get("status") or "enabled"
    reason, capabilities = body.get("statusReason"), body.get("capabilities")
    if status not in ("enabled", "disabled"):
        raise HubError(ARGUMENT_INVALID, "status must be 'enabled' or 'disabled'.")
    if reason is not None and not (isinstance(reason, str) and len(reason) <= 128):
        raise HubError(ARGUMENT_INVALID, "statusReason must be a text of at most 128 characters.")
    edge = bool(capabilities.get("iotEdge")) if isinstance(capabilities, dict) else False
    return {
        "status": status,
        "status_reason": reason,
        "authentication": _authentication(body.get("authentication"), before),
        "capabilities": {"iotEdge": edge},
    }


def _authentication(given: Any, before: Identity | None) -> Json:
    if given is None and before is not None:
        return before.authentication
    given = given or {}
    if not isinstance(given, dict) or given.get("type", "sas") not in _AUTHENTICATION_TYPES:
        raise HubError(
            ARGUMENT_INVALID, f"authentication.type must be one of {_AUTHENTICATION_TYPES}."
        )
    kind = given.get("type", "sas")
    keys, thumbprints = given.get("symmetricKey") or {}, given.get("x509Thumbprint") or {}
    if not isinstance(keys, dict) or not isinstance(thumbprints, dict):
        raise HubError(ARGUMENT_INVALID, "symmetricKey and x509Thumbprint must be objects.")
    if not all(isinstance(one, (str, type(None))) for one in thumbprints.values()):
        raise HubError(ARGUMENT_INVALID, "A thumbprint must be a text.")
    return {
        "symmetricKey": {
            name: _key(keys.get(name), generate=kind == "sas")
            for name in ("primaryKey", "secondaryKey")
        },
        "x509Thumbprint": {
            name: thumbprints.get(name) for name in ("primaryThumbprint", "secondaryThumbprint")
        },
        "type": kind,
    }


def _key(given: Any, *, generate: bool) -> str | None:
    if given in (None, ""):
        return new_key() if generate else None
    if not is_key(given):
        raise HubError(ARGUMENT_INVALID, "A symmetric key must be base64 of 16 to 64 bytes.")
    return str(given)


def identity_json(identity: Identity) -> Json:
    return {
        "deviceId": identity.device_id,
        "generationId": identity.generation_id,
        "etag": identity.etag,
        "connectionState": identity.connection_state,
        "status": identity.status,
        "statusReason": identity.status_reason,
        "connectionStateUpdatedTime": identity.connection_state_updated_time,
        "statusUpdatedTime": identity.status_updated_time,
        "lastActivityTime": identity.last_activity_time,
        "cloudToDeviceMessageCount": 0,
        "authentication": identity.authentication,
        "capabilities": identity.capabilities,
    }


def twin_json(identity: Identity, twin: Twin) -> Json:
    content = {
        "deviceId": identity.device_id,
        "etag": twin.etag,
        "deviceEtag": identity.etag,
        "status": identity.status,
        "statusUpdateTime": identity.status_updated_time,
        "connectionState": identity.connection_state,
        "lastActivityTime": identity.last_activity_time,
        "cloudToDeviceMessageCount": 0,
        "authenticationType": identity.authentication["type"],
        "x509Thumbprint": identity.authentication["x509Thumbprint"],
        "modelId": "",
        "version": twin.version,
        "tags": twin.tags,
        "properties": {
            "desired": twin.desired.for_service(),
            "reported": twin.reported.for_service(),
        },
        "capabilities": identity.capabilities,
    }
    if twin.configurations:
        content["configurations"] = twin.configurations
    if identity.status_reason is not None:
        content["statusReason"] = identity.status_reason
    return content
