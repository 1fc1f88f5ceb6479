"""What the stand-in raises."""

from __future__ import annotations


class AmqpNotAvailableError(NotImplementedError, AttributeError):
    """Something was used for which AMQP is needed.

    Also an `AttributeError`, so that `hasattr()` answers about the stand-in as about any module.
    """

    def __init__(self, name: str) -> None:
        super().__init__(
            f"uamqp.{name} is not available: installed is a stand-in without AMQP, for computers "
            "on which uamqp has no wheels. Of azure-iot-hub, only send_c2d_message needs AMQP. Use "
            "a desired property or a direct method instead, or run this with an x86-64 Python and "
            "the real uamqp."
        )
