"""The error of a query that cannot be understood."""

from __future__ import annotations

from fwupdate_helpers.localhub.errors import ARGUMENT_INVALID, HubError
from fwupdate_helpers.localhub.query.nodes import Place


class QuerySyntaxError(HubError):
    """A query that IoT Hub does not take; the message tells where it is wrong, and how.

    Attributes:
        place: The line and the column of the mistake, or None when it is all of the text.
    """

    def __init__(self, problem: str, place: Place | None = None) -> None:
        self.place = place
        where = f" at line {place.line}, column {place.column}" if place else ""
        super().__init__(ARGUMENT_INVALID, f"The query is invalid{where}: {problem}")
