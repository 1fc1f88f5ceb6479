"""What went wrong on the way to a server, in words that give nothing away.

The texts of aiohttp's errors hold the address that was asked, with the signature in it, and
sometimes a proxy with its password. So none of them is passed on: what happened is said anew.
"""

from __future__ import annotations

import asyncio
import os
import ssl

import aiohttp
from aiohttp.http_exceptions import HttpProcessingError

from fwupdate_helpers.contract import CODE_DOWNLOAD_REFUSED, CODE_NOT_TRUSTED, CODE_URI_REFUSED
from fwupdate_helpers.errors import DownloadError
from fwupdate_helpers.firmware.aiohttp_answer import ConnectionLost
from fwupdate_helpers.firmware.http_answers import TEMPORARY, TemporaryProblem

NETWORK_ERRORS = (
    aiohttp.ClientError,
    asyncio.TimeoutError,
    HttpProcessingError,
    OSError,
    ConnectionLost,
)
"""All that a request or the reading of its answer may raise."""


def explain(error: BaseException, place: str) -> TemporaryProblem | DownloadError:
    """Return what an error on the network means for the download, without its own text.

    Args:
        error: One of `NETWORK_ERRORS`.
        place: What to call the address in messages.
    """
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return _not_trusted(error, place)
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return _proxy_refusal(error.status, place)
    if isinstance(error, aiohttp.InvalidURL):
        return DownloadError(CODE_URI_REFUSED, f"{place} is refused: it is malformed.")
    return TemporaryProblem(_reason(error))


def _not_trusted(error: aiohttp.ClientConnectorCertificateError, place: str) -> DownloadError:
    cause = error.certificate_error
    detail = cause.verify_message if isinstance(cause, ssl.SSLCertVerificationError) else ""
    return DownloadError(
        CODE_NOT_TRUSTED,
        f"The certificate of the server of {place} is not trusted"
        f"{f' ({detail})' if detail else ''}. If the server is meant, give the device the "
        "certificate of the authority that signed it.",
    )


def _proxy_refusal(status: int, place: str) -> TemporaryProblem | DownloadError:
    if status in TEMPORARY:
        return TemporaryProblem(f"the proxy answered {status}")
    return DownloadError(
        CODE_DOWNLOAD_REFUSED,
        f"The proxy that the environment names does not let the device reach {place}: it answered "
        f"{status}. Ask whoever runs the network, or add the image's host to NO_PROXY.",
    )


def _reason(error: BaseException) -> str:
    # From the narrow to the broad: aiohttp's errors inherit from one another.
    if isinstance(error, asyncio.TimeoutError):
        return "the server did not send anything for too long"
    if isinstance(error, aiohttp.ClientConnectorSSLError):
        return f"the TLS handshake failed ({getattr(error.os_error, 'reason', None) or 'aborted'})"
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "the server's name was not found"
    if isinstance(error, aiohttp.ClientConnectorError):
        whose = "proxy" if isinstance(error, aiohttp.ClientProxyConnectionError) else "server"
        detail = os.strerror(error.os_error.errno) if error.os_error.errno else "no connection"
        return f"the {whose} cannot be reached ({detail})"
    if isinstance(error, (aiohttp.ClientResponseError, HttpProcessingError)):
        return "the server's answer is not proper HTTP"
    return "the connection was lost"
