"""The rules of a configuration's content: twin paths, conflicts, what to write and what to remove.

Pure functions over JSON; a *path* is the names that lead to a value below ``properties.desired``.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from fwupdate_helpers.localhub.errors import INVALID_CONFIGURATION_CONTENT, HubError
from fwupdate_helpers.localhub.jsontext import dumps
from fwupdate_helpers.localhub.twins import check_limits, merge

Json = dict[str, Any]
Path = tuple[str, ...]

PREFIX: Final = "properties.desired"


def read_content(device_content: Json) -> dict[Path, Any]:
    """Return the values of a configuration's ``deviceContent`` by their paths.

    Raises:
        HubError: 400402, a key is no path of desired properties, two of them overlap, or a value
            cannot be in a twin.
    """
    values: dict[Path, Any] = {}
    for path, value in _entries(device_content):
        if _any_overlaps(path, values):
            raise _invalid(f"the path {_name(path)} overlaps another one of the same content")
        values[path] = value
    if not values:
        raise _invalid(f"it writes nothing; give it keys such as '{PREFIX}.firmware'")
    try:
        check_limits("desired", as_tree(values))
    except HubError as error:
        raise HubError(INVALID_CONFIGURATION_CONTENT, error.message) from error
    for path, value in values.items():
        _check_value(path, value)
    return values


def _entries(device_content: Json) -> Iterator[tuple[Path, Any]]:
    for key, value in device_content.items():
        if key == PREFIX and isinstance(value, dict):
            yield from (((name,), inner) for name, inner in value.items())
        elif key.startswith(f"{PREFIX}."):
            yield tuple(key[len(PREFIX) + 1 :].split(".")), value
        else:
            raise _invalid(f"its keys must be paths such as '{PREFIX}.firmware', not {key!r}")


def _check_value(path: Path, value: Any) -> None:
    if value is None:
        raise _invalid(f"the value of {_name(path)} is null, which no twin can hold")
    if isinstance(value, str) and _is_python_set(value):
        raise _invalid(
            f"the value of {_name(path)} is the text of a Python set. In Python, {{'a'}} is a "
            "set, which the SDK sends as a text; write a dict such as {'a': 1}, or a list"
        )
    if isinstance(value, dict):
        for name, inner in value.items():
            _check_value((*path, name), inner)


def _is_python_set(text: str) -> bool:
    if not text.startswith(("{", "set(")):
        return False
    try:
        return isinstance(ast.literal_eval(text), set)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return False


def _name(path: Path) -> str:
    return ".".join((PREFIX, *path))


def overlaps(one: Path, other: Path) -> bool:
    """Tell whether a path is another one, or lies inside it."""
    length = min(len(one), len(other))
    return one[:length] == other[:length]


def as_tree(values: Mapping[Path, Any]) -> Json:
    """Return values by path as the desired properties that they make."""
    tree: Json = {}
    for path, value in values.items():
        _put(tree, path, value)
    return tree


def share_out(rivals: Iterable[tuple[str, Mapping[Path, Any]]]) -> dict[str, Json]:
    """Return for each configuration what it may write where all of them target a device.

    Args:
        rivals: Id and values by path, the strongest first.

    Returns:
        Id to desired properties; empty ones when stronger configurations have all its paths.
    """
    shares: dict[str, Json] = {}
    taken: list[Path] = []
    for configuration_id, values in rivals:
        won = {path: values[path] for path in values if not _any_overlaps(path, taken)}
        taken += won
        shares[configuration_id] = as_tree(won)
    return shares


def merged(parts: Iterable[Json]) -> Json:
    """Return the desired properties that several configurations make together."""
    together: Json = {}
    for part in parts:
        together = merge(together, part)
    return together


def patch_towards(properties: Json, wanted: Json, written: Json) -> Json:
    """Return the patch that brings desired properties in line; empty when they are.

    Args:
        properties: The desired properties as they are.
        wanted: What configurations are to write now.
        written: What they have written before.
    """
    patch: Json = {}
    targets = dict(_leaves(wanted))
    for path, value in targets.items():
        if not _is_same(_find(properties, path), value):
            _put(patch, path, value)
    for path, value in _leaves(written):
        ours = _is_same(_find(properties, path), value)
        if ours and path not in targets and not _any_overlaps(path, targets):
            _put(patch, path, None)
    return _without_empty_objects(patch, properties)


def _without_empty_objects(patch: Json, properties: Json) -> Json:
    tidy: Json = {}
    for key, value in patch.items():
        before = properties.get(key)
        if isinstance(value, dict) and value and isinstance(before, dict):
            value = _without_empty_objects(value, before)
            tidy[key] = value if merge(before, value) else None
        else:
            tidy[key] = value
    return tidy


def _leaves(tree: Json, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, (*path, key))
        else:
            yield (*path, key), value


_NOTHING: Final = object()


def _find(tree: Json, path: Path) -> Any:
    found: Any = tree
    for name in path:
        found = found.get(name, _NOTHING) if isinstance(found, dict) else _NOTHING
    return found


def _put(tree: Json, path: Path, value: Any) -> None:
    for name in path[:-1]:
        tree = tree.setdefault(name, {})
    tree[path[-1]] = value


def _is_same(found: Any, value: Any) -> bool:
    if found is _NOTHING:
        return False
    if value == {}:  # a merge patch cannot make an object emptier
        return isinstance(found, dict)
    if type(found) is type(value) and not isinstance(value, (dict, list)):
        return bool(found == value)
    return dumps(found) == dumps(value)  # for Python True == 1 == 1.0


def _any_overlaps(path: Path, others: Iterable[Path]) -> bool:
    return any(overlaps(path, other) for other in others)


def _invalid(problem: str) -> HubError:
    return HubError(
        INVALID_CONFIGURATION_CONTENT, f"The content of a configuration is not valid: {problem}."
    )
