"""Ask the hub for many device twins at once, page by page, through the unmodified SDK."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import chain
from typing import TYPE_CHECKING, Final

from fwupdate_helpers.errors import HubRequestError, QueryRefused
from fwupdate_helpers.retries import OnRetry, Operation, RetryPolicy
from fwupdate_helpers.sdk_errors import hub_errors

if TYPE_CHECKING:
    from azure.iot.hub import IoTHubRegistryManager
    from azure.iot.hub.models import QueryResult, Twin

PAGE_SIZE: Final = 100
"""Devices a page: the most that Azure promises (documentation of the query language)."""
ALL_DEVICES: Final = "*"


def twins_query(condition: str = ALL_DEVICES) -> str:
    """Return the query for the twins of all devices that a condition holds for.

    Args:
        condition: What stands after WHERE, without that word; ``*`` or nothing means all devices.

    >>> twins_query("tags.site = 'A'")
    "SELECT * FROM devices WHERE tags.site = 'A'"
    """
    words = condition.strip()
    return " WHERE ".join(
        ["SELECT * FROM devices", *([] if words in ("", ALL_DEVICES) else [words])]
    )


def query_twins(
    registry: IoTHubRegistryManager,
    query: str,
    *,
    page_size: int = PAGE_SIZE,
    policy: RetryPolicy | None = None,
    on_retry: OnRetry | None = None,
) -> Iterator[Twin]:
    """Yield what a query finds; the SDK makes a Twin of every row. See `twin_pages`.

    Example:
        >>> query = "SELECT * FROM devices WHERE connectionState = 'Connected'"
        >>> [twin.device_id for twin in query_twins(hub.registry, query)]  # doctest: +SKIP
    """
    pages = twin_pages(registry, query, page_size=page_size, policy=policy, on_retry=on_retry)
    return chain.from_iterable(pages)


def twin_pages(
    registry: IoTHubRegistryManager,
    query: str,
    *,
    page_size: int = PAGE_SIZE,
    policy: RetryPolicy | None = None,
    on_retry: OnRetry | None = None,
) -> Iterator[list[Twin]]:
    """Yield what a query finds, page by page; each page is one request to the hub.

    Azure counts requests (20 a minute for a unit of S1), so the pages tell what a query cost.

    Args:
        registry: The service client.
        query: The text, of 8,192 characters at most.
        page_size: Rows a page; the hub may send fewer.
        policy: How often and how long to try for each page; None is the default policy.
        on_retry: Called with a `Retry` before each further try.

    Raises:
        QueryRefused: The hub does not understand the query.
        FirmwareUpdateError: The hub was not reached or refused the request; see `hub_errors`.
    """
    chosen, continuation = policy or RetryPolicy(), None
    while True:

        def ask(token: str | None = continuation) -> QueryResult:
            return _ask(registry, query, token, page_size)

        page = chosen.call(ask, operation=Operation.QUERY, device_id="", on_retry=on_retry)
        yield page.items or []
        continuation = page.continuation_token
        if not continuation:
            return


def _ask(
    registry: IoTHubRegistryManager, query: str, continuation: str | None, page_size: int
) -> QueryResult:
    from azure.iot.hub.models import QuerySpecification

    try:
        with hub_errors():
            return registry.query_iot_hub(QuerySpecification(query=query), continuation, page_size)
    except HubRequestError as error:
        if error.status != 400:
            raise
        raise _refused(query, error) from error.__cause__


def _refused(query: str, error: HubRequestError) -> QueryRefused:
    words = _words_of_hub(error)
    return QueryRefused(
        f"The hub does not understand the query {query!r}. {words}Mend it and try again; text "
        "stands in single quotes, as in tags.site = 'A'.",
        query=query,
        code=error.code,
    )


def _words_of_hub(error: HubRequestError) -> str:
    """Return what the hub says about the query: there, its prose is all that helps."""
    response = getattr(error.__cause__, "response", None)
    try:
        message = str(json.loads(response.text)["Message"])  # type: ignore[union-attr]
    except (AttributeError, ValueError, TypeError, KeyError):
        return ""
    words = message.partition(";")[2] if message.startswith("ErrorCode:") else message
    words = " ".join(words.split())[:500]
    return f"It says: {words.rstrip('.')}. " if words else ""


__all__ = ["ALL_DEVICES", "PAGE_SIZE", "query_twins", "twin_pages", "twins_query"]
