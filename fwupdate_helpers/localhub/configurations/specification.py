"""A configuration as the REST API takes and gives it, checked. No I/O, and no clock of its own."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

from fwupdate_helpers.localhub.configurations.content import Path, read_content
from fwupdate_helpers.localhub.errors import (
    ARGUMENT_INVALID,
    CONFIGURATION_CONTENT_IMMUTABLE,
    INVALID_CONFIGURATION_CONTENT,
    INVALID_CONFIGURATION_METRICS,
    INVALID_CONFIGURATION_TARGET,
    NOT_IMPLEMENTED,
    HubError,
)

Json = dict[str, Any]
Check = Callable[[str], object]
"""Raises `HubError` when a text is not what it must be."""

MAX_METRICS: Final = 5
MAX_PRIORITY: Final = 2**31 - 1
_ID: Final = re.compile(r"[a-z0-9\-+%_*!']{1,128}")


@dataclass(frozen=True)
class Specification:
    """What a service says of a configuration.

    Attributes:
        device_content: Values by twin path, such as ``properties.desired.firmware``.
        target_condition: A condition without the word WHERE, ``*`` for all devices; an empty one
            targets none.
        priority: The greater one wins where two write the same twin path.
        metrics: Name to query, counted at each evaluation.
    """

    device_content: Json
    target_condition: str = ""
    priority: int = 0
    labels: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, str] = field(default_factory=dict)
    schema_version: str = "1.0"

    @cached_property
    def values(self) -> dict[Path, Any]:
        """The content by paths below ``properties.desired``."""
        return read_content(self.device_content)

    @cached_property
    def digest(self) -> str:
        """A fingerprint of the content, for the metadata of what it wrote."""
        return hashlib.sha256(_canonical(self.device_content).encode()).hexdigest()


@dataclass(frozen=True)
class Configuration:
    """A configuration of the hub.

    Attributes:
        results: The last counts of its metrics by ``system`` and ``custom``; empty before the
            first evaluation.
    """

    configuration_id: str
    specification: Specification
    etag: str
    created_time: str
    last_updated_time: str
    results: Json = field(default_factory=dict)

    @property
    def rank(self) -> tuple[int, str, str]:
        """What decides a conflict: the greatest wins. The last part is only for the same time."""
        return self.specification.priority, self.created_time, self.configuration_id

    def to_json(self) -> Json:
        """Return it as the REST API gives it."""
        specification = self.specification
        return {
            "id": self.configuration_id,
            "schemaVersion": specification.schema_version,
            "labels": specification.labels,
            "content": {"deviceContent": specification.device_content},
            "targetCondition": specification.target_condition,
            "createdTimeUtc": self.created_time,
            "lastUpdatedTimeUtc": self.last_updated_time,
            "priority": specification.priority,
            "systemMetrics": {
                "results": self.results.get("system", {}),
                "queries": _system_queries(self.configuration_id, specification.target_condition),
            },
            "metrics": {
                "results": self.results.get("custom", {}),
                "queries": specification.metrics,
            },
            "etag": self.etag,
        }


def _system_queries(configuration_id: str, condition: str) -> dict[str, str]:
    devices = "select deviceId from devices"
    applied = f"configurations.[[{configuration_id}]].status = 'Applied'"
    queries = {"appliedCount": f"{devices} where {applied}"}
    if condition.strip():
        where = "" if condition.strip() == "*" else f" where {condition}"
        queries["targetedCount"] = devices + where
    return queries


def check_id(configuration_id: str) -> str:
    """Return a configuration's id; raise `HubError` 400004 when it is none."""
    if not _ID.fullmatch(configuration_id):
        raise HubError(
            ARGUMENT_INVALID,
            "A configuration id has 1 to 128 lower-case letters, digits and - + % _ * ! '",
        )
    return configuration_id


def read_specification(
    body: Json, before: Specification | None, *, check_condition: Check, check_query: Check
) -> Specification:
    """Read what a service sends to create a configuration, or to change one.

    Args:
        before: What it is so far; None for a new one.
        check_condition: Checks a target condition.
        check_query: Checks the query of a metric.

    Raises:
        HubError: 400401 target condition, 400402 content, 400403 another content than before,
            400404 metrics, 400004 another field, 501000 content for modules.
    """
    specification = Specification(
        device_content=_content(body.get("content"), before),
        target_condition=_condition(body.get("targetCondition")),
        priority=_priority(body.get("priority")),
        labels=_texts("labels", body.get("labels"), ARGUMENT_INVALID),
        metrics=_metrics(body.get("metrics")),
        schema_version=_schema_version(body.get("schemaVersion")),
    )
    if error := target_error(specification.target_condition, check_condition):
        raise HubError(INVALID_CONFIGURATION_TARGET, error)
    for name, error in metric_errors(specification.metrics, check_query).items():
        raise HubError(INVALID_CONFIGURATION_METRICS, f"The metric '{name}': {error}")
    return specification


def target_error(condition: str, check_condition: Check) -> str | None:
    """Return what is wrong with a target condition, or None."""
    return _error_of(check_condition, condition) if condition.strip() else None


def metric_errors(queries: dict[str, str], check_query: Check) -> dict[str, str]:
    """Return what is wrong with the queries of metrics, by name."""
    errors = {name: _error_of(check_query, query) for name, query in queries.items()}
    return {name: error for name, error in errors.items() if error is not None}


def read_test(body: Json) -> tuple[str, dict[str, str]]:
    """Return the target condition and the queries of a call that only tests them."""
    queries = body.get("customMetricQueries")
    return (
        _condition(body.get("targetCondition")),
        _texts("customMetricQueries", queries, INVALID_CONFIGURATION_METRICS),
    )


def _error_of(check: Check, text: str) -> str | None:
    try:
        check(text)
    except HubError as error:
        return error.message
    return None


def _content(given: Any, before: Specification | None) -> Json:
    if given is None and before is not None:
        return before.device_content
    if not isinstance(given, dict):
        raise HubError(INVALID_CONFIGURATION_CONTENT, "A configuration needs a 'content' object.")
    for part in ("moduleContent", "modulesContent"):
        if given.get(part):
            raise HubError(
                NOT_IMPLEMENTED,
                f"The local hub does not offer {part} of configurations; a real IoT Hub does.",
            )
    content = given.get("deviceContent")
    if not isinstance(content, dict):
        raise HubError(INVALID_CONFIGURATION_CONTENT, "The content needs 'deviceContent'.")
    read_content(content)
    if before is not None and _canonical(content) != _canonical(before.device_content):
        raise HubError(
            CONFIGURATION_CONTENT_IMMUTABLE,
            "The content of a configuration cannot be changed; create another configuration.",
        )
    return content


def _condition(given: Any) -> str:
    if not isinstance(given, (str, type(None))):
        raise HubError(INVALID_CONFIGURATION_TARGET, "targetCondition must be a text.")
    return given or ""


def _priority(given: Any) -> int:
    given = 0 if given is None else given
    if isinstance(given, bool) or not isinstance(given, int) or not 0 <= given <= MAX_PRIORITY:
        raise HubError(ARGUMENT_INVALID, f"priority must be within [0; {MAX_PRIORITY}].")
    return given


def _metrics(given: Any) -> dict[str, str]:
    if not isinstance(given, (dict, type(None))):
        raise HubError(INVALID_CONFIGURATION_METRICS, "metrics must be an object.")
    queries = (given or {}).get("queries")
    metrics = _texts("metrics.queries", queries, INVALID_CONFIGURATION_METRICS)
    if len(metrics) > MAX_METRICS:
        raise HubError(
            INVALID_CONFIGURATION_METRICS,
            f"A configuration has at most {MAX_METRICS} metrics of its own, not {len(metrics)}.",
        )
    return metrics


def _texts(name: str, given: Any, code: int) -> dict[str, str]:
    if given is None:
        return {}
    if not isinstance(given, dict) or not all(isinstance(one, str) for one in given.values()):
        raise HubError(code, f"{name} must be an object of texts.")
    return given


def _schema_version(given: Any) -> str:
    if given not in (None, "1.0"):
        raise HubError(ARGUMENT_INVALID, "schemaVersion must be '1.0'.")
    return "1.0"


def _canonical(content: Json) -> str:
    return json.dumps(content, sort_keys=True, separators=(",", ":"))
