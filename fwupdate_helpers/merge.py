"""JSON merge patches (RFC 7386): what a twin's reported properties are written with."""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]


def merge(target: Json, patch: Json) -> Json:
    """Return `target` after a merge patch: objects merge, None deletes, the rest overwrites.

    >>> merge({"a": 1, "b": {"c": 2}}, {"a": None, "b": {"d": 3}})
    {'b': {'c': 2, 'd': 3}}
    """
    merged = dict(target)
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, dict):
            before = merged.get(key)
            merged[key] = merge(before if isinstance(before, dict) else {}, value)
        else:
            merged[key] = value
    return merged


def difference(before: Json, after: Json) -> Json:
    """Return the merge patch that leads from one object to another; empty when they are equal.

    >>> difference({"a": 1, "b": {"c": 2}}, {"b": {"c": 2, "d": 3}})
    {'a': None, 'b': {'d': 3}}
    """
    patch: Json = {key: None for key in before if key not in after}
    for key, value in after.items():
        old = before.get(key)
        if isinstance(old, dict) and isinstance(value, dict):
            if inner := difference(old, value):
                patch[key] = inner
        elif old != value or key not in before:
            patch[key] = value
    return patch


def compose(first: Json, second: Json) -> Json | None:
    """Return one merge patch that does what two do one after the other; None when none does.

    There is none where the second puts an object in place of what the first deletes or overwrites:
    a merge patch cannot say "this object, and nothing of what was there before".

    >>> compose({"a": 1, "b": {"c": 2}}, {"a": None, "b": {"d": 3}})
    {'a': None, 'b': {'c': 2, 'd': 3}}
    >>> compose({"a": None}, {"a": {"b": 1}}) is None
    True
    """
    composed = dict(first)
    for key, value in second.items():
        before = first.get(key)
        if isinstance(value, dict) and key in first:
            inner = compose(before, value) if isinstance(before, dict) else None
            if inner is None:
                return None
            composed[key] = inner
        else:
            composed[key] = value
    return composed
