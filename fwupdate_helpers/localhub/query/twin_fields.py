"""Where the properties of a device twin are kept: paths of a query as SQL over the table `devices`.

The names are those of a twin as the service reads it; keys and passwords are not among them.
"""

from __future__ import annotations

from typing import Final

from fwupdate_helpers.localhub.query.errors import QuerySyntaxError
from fwupdate_helpers.localhub.query.nodes import Path
from fwupdate_helpers.localhub.query.values import (
    NOWHERE,
    NUMBER,
    OBJECT,
    STRING,
    Bind,
    Value,
    column,
    in_json,
)

ETAG_FUNCTION: Final = "query_twin_etag"

_COLUMNS: Final = {
    "deviceId": column("device_id", STRING),
    "etag": column(f"{ETAG_FUNCTION}(twin_version)", STRING),
    "deviceEtag": column("etag", STRING),
    "status": column("status", STRING),
    "statusReason": column("status_reason", STRING),
    "statusUpdateTime": column("status_updated_time", STRING),
    "connectionState": column("connection_state", STRING),
    "lastActivityTime": column("last_activity_time", STRING),
    "cloudToDeviceMessageCount": column("0", NUMBER),
    "authenticationType": column("json_extract(authentication, '$.type')", STRING),
    "modelId": column("''", STRING),
    "version": column("twin_version", NUMBER),
    # A twin has them on Azure; nothing sets them here.
    "deviceScope": NOWHERE,
    "parentScopes": NOWHERE,
    "moduleId": NOWHERE,
}
_ROOTS: Final = {
    name.lower(): name
    for name in (
        *_COLUMNS,
        "tags",
        "properties",
        "capabilities",
        "configurations",
        "x509Thumbprint",
    )
}
_CAPABILITIES: Final = {"iotedge": "iotEdge"}
_THUMBPRINTS: Final = "json_extract(authentication, '$.x509Thumbprint')"


def field_name(path: Path) -> str:
    """Return the name that a path's value has in a row: its last one."""
    return (
        path.names[-1] if len(path.names) > 1 else _ROOTS.get(path.names[0].lower(), path.names[0])
    )


def twin_value(path: Path, bind: Bind) -> Value:
    """Return SQL for what a path leads to.

    Raises:
        QuerySyntaxError: 400004, a twin has no such property at its root.
    """
    names = path.names
    if len(names) > 1 and names[0].lower() == "devices":
        names = names[1:]
    root, below = _ROOTS.get(names[0].lower()), names[1:]
    if root is None:
        raise _no_such_root(names[0], path)
    if root in _COLUMNS:
        return NOWHERE if below else _COLUMNS[root]
    if root == "properties":
        return _property(path, below, bind)
    if root == "configurations" and not below:
        return column("nullif(configurations, '{}')", OBJECT)
    if root == "capabilities":
        below = tuple(_CAPABILITIES.get(name.lower(), name) for name in below)
    return _document(_THUMBPRINTS if root == "x509Thumbprint" else root, below, bind)


def _document(sql: str, keys: tuple[str, ...], bind: Bind) -> Value:
    return in_json(sql, keys, bind) if keys else column(sql, OBJECT)


def _property(path: Path, below: tuple[str, ...], bind: Bind) -> Value:
    if not below:
        sections = ", ".join(f"'{one}', json({_whole(one)})" for one in ("desired", "reported"))
        return column(f"json_object({sections})", OBJECT)
    section, keys = below[0].lower(), below[1:]
    if section not in ("desired", "reported"):
        raise QuerySyntaxError(
            f"the properties of a twin are properties.desired and properties.reported, "
            f"not '{below[0][:40]}'.",
            path.place,
        )
    if not keys:
        return column(_whole(section), OBJECT)
    if keys[0] == "$version":
        return NOWHERE if keys[1:] else column(f"{section}_version", NUMBER)
    if keys[0] == "$metadata":
        return _document(f"{section}_metadata", keys[1:], bind)
    return in_json(section, keys, bind)


def _whole(section: str) -> str:
    return (
        f"json_set({section}, '$.\"$metadata\"', json({section}_metadata), "
        f"'$.\"$version\"', {section}_version)"
    )


def _no_such_root(name: str, path: Path) -> QuerySyntaxError:
    shown = name[:40]
    return QuerySyntaxError(
        f"a device twin has no '{shown}' at its root. Write tags.{shown}, "
        f"properties.desired.{shown} or properties.reported.{shown} for a property, "
        f"'{shown}' in quotes for a text, [[so]] for a name with a '-'.",
        path.place,
    )
