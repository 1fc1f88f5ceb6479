"""The rules of a device twin: merge patches, metadata, versions, ETags and limits.

Pure functions: no I/O, and the time is handed in.
Source: Microsoft's "Understand and use device twins in IoT Hub" (iot-hub-devguide-device-twins.md).
"""

from __future__ import annotations

import base64
import re
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Final

from fwupdate_helpers.localhub.errors import ARGUMENT_INVALID, HubError
from fwupdate_helpers.localhub.jsontext import dumps

Json = dict[str, Any]

MAX_DEPTH: Final = 10
"""Objects and arrays inside one another; the section itself is level 0."""
MAX_KEY_BYTES: Final = 1024
MAX_STRING_BYTES: Final = 4096
MAX_BYTES: Final = {"tags": 8 * 1024, "desired": 32 * 1024, "reported": 32 * 1024}
MAX_INTEGER: Final = 4503599627370495
MIN_INTEGER: Final = -4503599627370496

_CONTROLS: Final = re.compile("[\x00-\x1f\x7f-\x9f]")
_METADATA = "$metadata"
_VERSION = "$version"
_LAST_UPDATED = "$lastUpdated"
_LAST_UPDATED_VERSION = "$lastUpdatedVersion"
_BY = "$lastUpdatedBy"
_BY_DIGEST = "$lastUpdatedByDigest"


@dataclass(frozen=True)
class Section:
    """The desired or the reported properties with their metadata.

    Attributes:
        properties: The values, without `$metadata` and `$version`.
        metadata: The same tree, each node with `$lastUpdated`.
        version: Starts at 1, one more with each update.
    """

    properties: Json = field(default_factory=dict)
    metadata: Json = field(default_factory=dict)
    version: int = 1

    def for_service(self) -> Json:
        """Return the section as the service sees it."""
        return {**self.properties, _METADATA: self.metadata, _VERSION: self.version}

    def for_device(self) -> Json:
        """Return the section as the device sees it: no metadata."""
        return {**self.properties, _VERSION: self.version}


@dataclass(frozen=True)
class Twin:
    """A device twin.

    Attributes:
        version: Counts the changes by the service: tags and desired properties.
        configurations: Id to status of the automatic configurations that target the device.
    """

    tags: Json = field(default_factory=dict)
    desired: Section = field(default_factory=Section)
    reported: Section = field(default_factory=Section)
    version: int = 1
    configurations: Json = field(default_factory=dict)

    @property
    def etag(self) -> str:
        """The ETag of the service's part: base64 of the version as eight bytes."""
        return base64.b64encode(struct.pack(">Q", self.version)).decode()


@dataclass(frozen=True)
class Writer:
    """An automatic configuration that writes desired properties.

    Attributes:
        digest: A fingerprint of its content.
        properties: What of the desired properties it writes.
    """

    configuration_id: str
    digest: str
    properties: Json


def new_twin(now: str) -> Twin:
    """Return the twin of a device that was created at `now`."""
    return Twin(
        desired=Section(metadata=_stamp(now, 1)),
        reported=Section(metadata=_stamp(now, None)),
    )


def patch_reported(twin: Twin, patch: Json, now: str) -> Twin:
    """Merge a device's patch into the reported properties.

    Raises:
        HubError: 400004, the patch or what it leads to breaks a limit.
    """
    return replace(twin, reported=_patch_section("reported", twin.reported, patch, now))


def patch_by_service(twin: Twin, patch: Json, now: str) -> Twin:
    """Merge a service's patch (`tags`, `properties.desired`); other roots are read-only.

    Raises:
        HubError: 400004, the patch or what it leads to breaks a limit.
    """
    tags, desired = _service_parts(patch)
    changed = replace(twin, version=twin.version + 1)
    if tags is not None:
        check_keys("tags", tags)
        changed = replace(changed, tags=merge(twin.tags, tags))
        check_limits("tags", changed.tags)
    if desired is not None:
        changed = replace(changed, desired=_patch_section("desired", twin.desired, desired, now))
    return changed


def patch_by_configurations(twin: Twin, patch: Json, writers: Iterable[Writer], now: str) -> Twin:
    """Merge a patch of automatic configurations into the desired properties.

    Their metadata tells who wrote what: each value, and the objects around it.

    Args:
        writers: The strongest last: what several of them wrote into is marked with it.

    Raises:
        HubError: 400004, the patch or what it leads to breaks a limit.
    """
    changed = patch_by_service(twin, {"properties": {"desired": patch}}, now)
    metadata = changed.desired.metadata
    for writer in writers:
        by = {_BY: writer.configuration_id, _BY_DIGEST: writer.digest}
        metadata = _mark(metadata, patch, writer.properties, by)
    return replace(changed, desired=replace(changed.desired, metadata=metadata))


def _mark(metadata: Json, patch: Json, written: Json, by: Json) -> Json:
    marked: Json = {}
    for key in patch.keys() & written.keys():
        value, part = patch[key], written[key]
        if isinstance(value, dict) and value and isinstance(part, dict):
            node = _mark(metadata[key], value, part, by)
            marked |= {} if node is metadata[key] else {key: node}
        elif value is not None:
            marked[key] = {**metadata[key], **by}
    return {**metadata, **by, **marked} if marked else metadata


def replace_by_service(twin: Twin, content: Json, now: str) -> tuple[Twin, Json | None]:
    """Replace tags and desired properties by what is given; a part that is absent stays.

    Returns:
        The new twin, and the patch that leads the device from the old desired properties to the
        new ones (None when they were not given).
    """
    tags, desired = _service_parts(content)
    changed = replace(twin, version=twin.version + 1)
    if tags is not None:
        check_keys("tags", tags)
        changed = replace(changed, tags=without_nulls(tags))
        check_limits("tags", changed.tags)
    if desired is None:
        return changed, None
    check_keys("desired", desired)
    target = without_nulls(desired)
    check_limits("desired", target)
    version = twin.desired.version + 1
    metadata = _stamp(now, version)
    _stamp_tree(metadata, target, now, version)
    section = Section(properties=target, metadata=metadata, version=version)
    return replace(changed, desired=section), difference(twin.desired.properties, target)


def desired_patch(patch: Json) -> Json | None:
    """Return the part of a service's patch that a device is told of, nulls and all."""
    return _service_parts(patch)[1]


def merge(target: Json, patch: Json) -> Json:
    """Apply a JSON merge patch (RFC 7396): objects merge, null deletes, all else overwrites."""
    merged = dict(target)
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, dict):
            old = merged.get(key)
            merged[key] = merge(old if isinstance(old, dict) else {}, value)
        else:
            merged[key] = value
    return merged


def difference(old: Json, new: Json) -> Json:
    """Return a merge patch that leads from `old` to `new`."""
    patch: Json = {key: None for key in old if key not in new}
    for key, value in new.items():
        before = old.get(key)
        if isinstance(before, dict) and isinstance(value, dict):
            if inner := difference(before, value):
                patch[key] = inner
        elif key not in old or dumps(before) != dumps(value):  # for Python True == 1 == 1.0
            patch[key] = value
    return patch


def without_nulls(content: Json) -> Json:
    """Return `content` without its null members: a twin stores none."""
    return merge({}, content)


def check_limits(section: str, properties: Json) -> None:
    """Hold a section against the limits on keys, values, depth and size.

    The size is that of keys and values: a string's UTF-8 bytes, 8 for a number, 4 for a boolean.

    Raises:
        HubError: 400004, with the limit that is broken.
    """
    check_keys(section, properties)
    size = _size(properties)
    if size > MAX_BYTES[section]:
        raise HubError(
            ARGUMENT_INVALID,
            f"The {section} section of the twin is over {MAX_BYTES[section]} bytes ({size}).",
        )


def check_keys(section: str, properties: Json) -> None:
    """Hold every key and value of a section or a patch against the limits, all but the size."""
    _check_value(section, properties, 0)


def _patch_section(name: str, section: Section, patch: Json, now: str) -> Section:
    check_keys(name, patch)
    version = section.version + 1
    properties = merge(section.properties, patch)
    check_limits(name, properties)
    metadata = _patch_metadata(
        section.metadata, patch, properties, now, version if name == "desired" else None
    )
    return Section(properties=properties, metadata=metadata, version=version)


def _patch_metadata(
    metadata: Json, patch: Json, properties: Json, now: str, version: int | None
) -> Json:
    by_nobody = {key: node for key, node in metadata.items() if key not in (_BY, _BY_DIGEST)}
    changed = {**by_nobody, **_stamp(now, version)}
    for key, value in patch.items():
        if value is None:
            changed.pop(key, None)
        elif isinstance(value, dict):
            inner = changed.get(key, {})
            changed[key] = _patch_metadata(inner, value, properties[key], now, version)
        else:
            changed[key] = _stamp(now, version)
    # What was an object and is now a value, or the other way round, leaves no old nodes behind.
    return {key: node for key, node in changed.items() if key.startswith("$") or key in properties}


def _stamp_tree(metadata: Json, properties: Json, now: str, version: int | None) -> None:
    for key, value in properties.items():
        metadata[key] = _stamp(now, version)
        if isinstance(value, dict):
            _stamp_tree(metadata[key], value, now, version)


def _stamp(now: str, version: int | None) -> Json:
    stamp: Json = {_LAST_UPDATED: now}
    if version is not None:
        stamp[_LAST_UPDATED_VERSION] = version
    return stamp


def _service_parts(patch: Json) -> tuple[Json | None, Json | None]:
    properties = patch.get("properties")
    if properties is not None and not isinstance(properties, dict):
        raise HubError(ARGUMENT_INVALID, "The 'properties' of a twin must be an object.")
    tags, desired = patch.get("tags"), (properties or {}).get("desired")
    for name, part in (("tags", tags), ("properties.desired", desired)):
        if part is not None and not isinstance(part, dict):
            raise HubError(ARGUMENT_INVALID, f"The '{name}' of a twin must be an object.")
    if desired is not None:
        # A twin that was read and is written back brings these along.
        desired = {key: value for key, value in desired.items() if key not in _READ_ONLY}
    return tags, desired


_READ_ONLY = (_METADATA, _VERSION)


def _check_key(section: str, key: str) -> None:
    if not key or len(key.encode()) > MAX_KEY_BYTES:
        raise _invalid(section, f"has a key that is empty or over {MAX_KEY_BYTES} bytes")
    if _CONTROLS.search(key) or any(character in ".$ " for character in key):
        raise _invalid(section, f"has the key {key!r}; no '.', '$', space or control character")


def _check_value(section: str, value: Any, depth: int, *, in_array: bool = False) -> None:
    if isinstance(value, (dict, list)) and depth > MAX_DEPTH:
        raise _invalid(section, f"nests deeper than {MAX_DEPTH} levels")
    if isinstance(value, dict):
        for key, inner in value.items():
            _check_key(section, key)
            _check_value(section, inner, depth + 1, in_array=in_array)
    elif isinstance(value, list):
        for item in value:
            _check_value(section, item, depth + 1, in_array=True)
    elif value is None and in_array:
        raise _invalid(section, "has a null inside an array")
    elif isinstance(value, str):
        if len(value.encode()) > MAX_STRING_BYTES:
            raise _invalid(section, f"has a string of over {MAX_STRING_BYTES} bytes")
    elif isinstance(value, int) and not MIN_INTEGER <= value <= MAX_INTEGER:
        raise _invalid(section, f"has an integer outside {MIN_INTEGER} to {MAX_INTEGER}")


def _size(value: Any) -> int:
    if isinstance(value, dict):
        return sum(_size(key) + _size(inner) for key, inner in value.items())
    if isinstance(value, list):
        return sum(map(_size, value))
    if isinstance(value, str):
        return len(_CONTROLS.sub("", value).encode())
    if isinstance(value, bool):
        return 4
    return 0 if value is None else 8


def _invalid(section: str, problem: str) -> HubError:
    return HubError(ARGUMENT_INVALID, f"The {section} section of the twin {problem}.")
