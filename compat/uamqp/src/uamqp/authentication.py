"""Authentication that azure-iot-hub prepares for AMQP, and that leads nowhere here."""

from __future__ import annotations

from collections.abc import Callable


class JWTTokenAuth:
    """A source of tokens.

    Args:
        audience: For whom the tokens are.
        uri: Address of the hub.
        get_token: Makes a token.
        settings: Whatever else uamqp's takes.
    """

    def __init__(
        self, audience: str, uri: str, get_token: Callable[[], object], **settings: object
    ) -> None:
        self._get_token = get_token

    def update_token(self) -> None:
        """Make a token and drop it: a wrong key is found while the client is made, as in uamqp."""
        self._get_token()
