"""aiohttp's answer, for a client that has to know when a connection is lost."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import aiohttp


class ConnectionLost(Exception):
    """The connection was lost before the answer was complete."""


class Answer(aiohttp.ClientResponse):
    """An answer that hides no loss of its connection, and no byte that came before.

    What aiohttp does by itself, and a download that counts its tries and its bytes cannot have
    (measured with 3.14):

    * A GET whose connection is lost before the headers is sent again, without back-off.
    * Bytes that came before a loss and were not read yet cannot be read any more.
    * A body in broken chunks leaves its reader waiting, whatever the time limits for reading say.
    * A TLS connection ends in good order, which a silent peer can hold up for half a minute.
    """

    _wire: asyncio.Transport | None = None

    async def start(self, connection: aiohttp.connector.Connection) -> aiohttp.ClientResponse:
        """Read the headers.

        Raises:
            ConnectionLost: They did not come; not an error of aiohttp's, so it does not try again.
        """
        self._wire = connection.transport
        try:
            return await super().start(connection)
        except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError):
            raise ConnectionLost from None
        except BaseException:
            self.hang_up()
            raise

    async def read_piece(self, size: int, idle_seconds: float) -> bytes:
        """Return up to `size` bytes of the body, none at its end.

        Args:
            size: In bytes.
            idle_seconds: How long to wait for the first of them.

        Raises:
            ConnectionLost: Or another of the errors in `network_errors.NETWORK_ERRORS`.
        """
        too_late = asyncio.TimeoutError()
        loop = asyncio.get_running_loop()
        watch = loop.call_later(idle_seconds, self.content.set_exception, too_late)
        try:
            return await self.content.read(size)
        except RuntimeError:  # what it raises when it has not been told of the loss
            raise ConnectionLost from None
        finally:
            watch.cancel()

    def left_over(self, size: int) -> bytes:
        """Return up to `size` bytes that came before the connection was lost; none at their end."""
        self.content.set_exception(None)  # type: ignore[arg-type]
        with suppress(asyncio.TimeoutError):  # the time for the whole request is up as well
            return self.content.read_nowait(size)
        return b""

    def hang_up(self) -> None:
        """Close the connection now, whatever is still on its way."""
        if self._wire is not None:
            self._wire.abort()
        self.close()
