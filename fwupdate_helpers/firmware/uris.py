"""Where an image may come from: which addresses a device follows, and what it shows of them.

The address of an image is often a secret: the query of a blob's address holds a shared access
signature, and whoever has it can read the blob. So `shown` leaves out all that may hold one, and
whatever is logged, reported or raised goes through it.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Final
from urllib.parse import SplitResult, urljoin, urlsplit
from urllib.request import getproxies, proxy_bypass

from fwupdate_helpers.contract import CODE_DOWNLOAD_FAILED, CODE_URI_REFUSED
from fwupdate_helpers.errors import DownloadError

MAX_LENGTH: Final = 4096
"""Characters that an address may have; a signed one has some hundreds."""

_HIDDEN: Final = "…"
_SCHEMES_SHOWN: Final = ("https", "http", "file", "ftp", "ftps", "data")
_VISIBLE_ASCII: Final = re.compile(r"[!-\[\]-~]*")  # all but the backslash
_LABEL: Final = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_HOST_NAME: Final = re.compile(rf"(?:{_LABEL}\.)*{_LABEL}\.?", re.IGNORECASE)
_FILE_NAME: Final = re.compile(r"(?=.{1,100}$)\w[\w.+~-]*\.[a-z][a-z0-9]{0,7}", re.ASCII | re.I)
_SHORT_NAME: Final = re.compile(r"\w[\w.+~-]{0,15}", re.ASCII)


def check_uri(uri: str, *, allow_http: bool = False) -> None:
    """Check that a device may download from an address.

    Args:
        uri: An absolute address, percent-encoded as it goes over the wire.
        allow_http: Whether plain HTTP will do; else it has to be HTTPS.

    Raises:
        DownloadError: The device does not follow it, with the code `uriRefused`.

    Example:
        >>> check_uri("https://images.example.com/edge-2.0.0.fw?sig=abc")
        >>> check_uri("file:///etc/passwd")
        Traceback (most recent call last):
        ...
        fwupdate_helpers.errors.DownloadError: file:…/passwd is refused: it needs https://.
    """
    problem = _problem(uri, allow_http=allow_http)
    if problem is not None:
        raise DownloadError(CODE_URI_REFUSED, f"{shown(uri)} is refused: {problem}.")


def _problem(uri: str, *, allow_http: bool) -> str | None:
    if len(uri) > MAX_LENGTH:
        return f"an address may have {MAX_LENGTH} characters at most"
    if not _VISIBLE_ASCII.fullmatch(uri):
        return "spaces, control characters, backslashes and non-ASCII must be percent-encoded"
    try:
        parts = urlsplit(uri)
        port_is_zero = parts.port == 0
    except ValueError:
        return "it is malformed"
    if parts.scheme not in (("https", "http") if allow_http else ("https",)):
        return "it needs https://" + (" or http://" if allow_http else "")
    if "@" in parts.netloc:
        return "a user name or password in an address is not allowed"
    if not _is_host(parts.hostname or "") or port_is_zero:
        return "it names no host that could be reached"
    return None


def _is_host(host: str) -> bool:
    if ":" not in host:
        return len(host) <= 253 and bool(_HOST_NAME.fullmatch(host))
    try:
        return ipaddress.IPv6Address(host).scope_id is None
    except ValueError:
        return False


def redirected(uri: str, location: str | None, *, allow_http: bool = False) -> str:
    """Return where a redirect leads.

    Args:
        uri: The address that was asked.
        location: The answer's ``Location``, absolute or relative.
        allow_http: As in `check_uri`; it never allows a way from HTTPS to HTTP.

    Raises:
        DownloadError: The device does not follow the redirect, with the code `uriRefused`.
    """
    if not location:
        raise DownloadError(CODE_URI_REFUSED, f"{shown(uri)} redirects to nowhere.")
    try:
        target = urljoin(uri, location)
    except ValueError:
        target = location
    try:
        check_uri(target, allow_http=allow_http and urlsplit(uri).scheme == "http")
    except DownloadError as error:
        raise DownloadError(error.code, f"A redirect is not followed: {error}") from None
    return target


def shown(uri: str) -> str:
    """Return as much of an address as may be seen: scheme, host, port and the file's name.

    The query, a user's name and password, all folders, and a last part that looks more like a
    token than like a file's name are left out.

    Example:
        >>> shown("https://acme.blob.core.windows.net/images/edge-2.0.0.fw?sv=2024&sig=abc")
        'https://acme.blob.core.windows.net/…/edge-2.0.0.fw'
    """
    try:
        parts = urlsplit(uri)
        host, name = _shown_host(parts), parts.path.rpartition("/")[2]
    except ValueError:
        return _HIDDEN
    harmless = bool(_FILE_NAME.fullmatch(name) or _SHORT_NAME.fullmatch(name))
    if not parts.scheme and not host and "/" not in uri:
        return name if harmless else _HIDDEN
    if parts.scheme not in _SCHEMES_SHOWN:
        return _HIDDEN
    if not host:
        is_file = parts.scheme == "file" and harmless
        return f"{parts.scheme}:{_HIDDEN}" + (f"/{name}" if is_file else "")
    folders = f"{_HIDDEN}/" if parts.path.count("/") > 1 else ""
    return f"{parts.scheme}://{host}/{folders}{name if harmless or not name else _HIDDEN}"


def _shown_host(parts: SplitResult) -> str:
    host = parts.hostname or ""
    if not host:
        return ""
    if not _is_host(host):
        return _HIDDEN
    port = "" if parts.port is None else f":{parts.port}"
    return (f"[{host}]" if ":" in host else host) + port


def is_loopback(host: str) -> bool:
    """Tell whether a host name or an IP address means this computer itself.

    >>> is_loopback("127.8.4.2"), is_loopback("localhost"), is_loopback("example.com")
    (True, True, False)
    """
    name = host.rstrip(".").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return address.is_loopback or (mapped is not None and mapped.is_loopback)


def proxy_for(uri: str) -> str | None:
    """Return the proxy that the environment names for an address, or None for the direct way.

    ``HTTPS_PROXY``, ``HTTP_PROXY``, ``ALL_PROXY`` and ``NO_PROXY`` count, in small letters, too,
    and on Windows and macOS the system's settings. This computer itself is never behind a proxy.

    Raises:
        DownloadError: The proxy is of a kind that the device does not speak.
    """
    parts = urlsplit(uri)
    # Windows may look the name up for this, so callers on an event loop use a thread.
    if is_loopback(parts.hostname or "") or proxy_bypass(parts.netloc):
        return None
    proxies = getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    if not proxy:
        return None
    if "://" not in proxy:
        proxy = f"http://{proxy}"
    if not proxy.lower().startswith(("http://", "https://")):
        raise DownloadError(
            CODE_DOWNLOAD_FAILED,
            "The environment names a proxy that the device cannot use: only HTTP proxies will do. "
            "Change HTTPS_PROXY or ALL_PROXY, or add the image's host to NO_PROXY.",
        )
    return proxy
