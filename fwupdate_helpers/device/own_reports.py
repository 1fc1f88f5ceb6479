"""Whether somebody else writes this device's reported properties: the hub's own count tells.

IoT Hub counts in ``$version`` every reported patch that it takes, and takes them only from a client
that has this device's id and key. So a count that is higher than what this client has sent is the
work of another one. Nothing else on the wire tells it: the hub closes the older connection of an id
without a word, which looks like a bad line.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True)
class Look:
    """What was on its way when the twin was asked for.

    Attributes:
        sent: How many patches had been sent so far.
        doubtful: Of how many of them nobody knows whether the hub has taken them.
        pending: Those, and the ones that were not answered yet.
    """

    sent: int
    doubtful: int
    pending: int


class OwnReports:
    """How far the count of the reported patches may have come by this client's own doing.

    Example:
        >>> own = OwnReports()
        >>> own.is_foreign(7, own.look())  # the twin as it was found
        False
        >>> with own.report():
        ...     pass  # sent, and acknowledged
        >>> own.is_foreign(8, own.look()), own.is_foreign(9, own.look())
        (False, True)
    """

    def __init__(self) -> None:
        self._sent = self._open = self._doubtful = 0
        self._base: int | None = None
        """The highest count that there can be without another client, less what is sent here."""

    @contextmanager
    def report(self) -> Iterator[None]:
        """Count a patch that is sent here; one that ends in an error may still be taken."""
        self._sent += 1
        self._open += 1
        try:
            yield
        except BaseException:
            self._doubtful += 1
            self._sent += 1  # "at least once": MQTT may have sent it twice
            raise
        finally:
            self._open -= 1

    def look(self) -> Look:
        """Note what is on its way; to be called before the twin is asked for."""
        return Look(self._sent, self._doubtful, self._open + self._doubtful)

    def is_foreign(self, version: int, look: Look) -> bool:
        """Tell whether the count that the hub tells is too high for this client alone.

        Args:
            version: The count. What comes later is compared with this one.
            look: What was on its way before: the hub may have counted it then, or later.
        """
        found = self._base is not None and version > self._base + self._sent
        self._base = version + look.pending - look.sent
        self._doubtful -= look.doubtful
        return found
