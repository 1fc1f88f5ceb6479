"""Stands in for uamqp, the AMQP library behind azure-iot-hub, where it has no wheels.

azure-iot-hub 2.7 imports uamqp at once and makes an AMQP client with every registry manager. It
uses that client for cloud-to-device messages only (`send_c2d_message`); all the rest is HTTPS. So
this package has what is needed to import azure-iot-hub and to make its clients. Everything else
raises `AmqpNotAvailableError`. Nothing here opens a connection.
"""

from __future__ import annotations

from enum import Enum
from typing import NoReturn

from uamqp import authentication
from uamqp.errors import AmqpNotAvailableError

__all__ = ["AmqpNotAvailableError", "SendClient", "TransportType", "authentication"]


class TransportType(Enum):
    """How AMQP would be carried; names and values are uamqp's."""

    Amqp = 1
    AmqpOverWebsocket = 2


class SendClient:
    """A client that can be made and closed, and not used.

    Args:
        target: Address to which it would send.
        settings: Whatever else uamqp's takes.
    """

    def __init__(self, target: str, **settings: object) -> None:
        self._target = target

    def close(self) -> None:
        """Do nothing: there is no connection."""

    def __getattr__(self, name: str) -> NoReturn:
        raise AmqpNotAvailableError(f"SendClient.{name}")


def __getattr__(name: str) -> NoReturn:
    raise AmqpNotAvailableError(name)
