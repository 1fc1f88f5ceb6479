"""Publish a firmware image where a device can download it over HTTPS.

The local hub keeps images itself. For an IoT Hub on Azure they go into a container of Blob
storage, which a shared access signature (SAS) opens. Either address is a secret: no message, log
or exception made here shows its token or signature.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final
from urllib.parse import SplitResult, parse_qs, urlsplit

from fwupdate_helpers import own_routes
from fwupdate_helpers.errors import FirmwareUpdateError
from fwupdate_helpers.firmware.uris import shown
from fwupdate_helpers.localhub.images import is_image_name
from fwupdate_helpers.localhub.redaction import mask_text
from fwupdate_helpers.own_routes import masked_logs
from fwupdate_helpers.settings import IMAGE_CONTAINER_VARIABLE, read_setting

if TYPE_CHECKING:
    import os

    from azure.storage.blob import BlobClient

    from fwupdate_helpers.hub import Hub

_LOCAL_PATH: Final = re.compile(r"/firmware/([A-Za-z0-9_-]+)/([A-Za-z0-9._+-]+)")
_BLOCK: Final = 4 * 1024 * 1024
_RETRIES: Final = 3
_BACKOFF: Final = 2
"""Seconds between two tries are a power of it. Azure's default is to wait 15 seconds and more."""
_NEW_CONTAINER_URL: Final = (
    "Make a SAS URL of a container with the permissions read, create, write and delete (Azure "
    f"portal: container, 'Shared access tokens'), and put it into {IMAGE_CONTAINER_VARIABLE} "
    "or pass it as container_url."
)
_DELETE_BY_HAND: Final = (
    "Delete the image in the Azure portal, or let the container's lifecycle rules do it."
)


class _ImageUrl(str):
    """An address that a notebook or a debugger does not show by accident; print shows it."""

    def __repr__(self) -> str:
        return repr(mask_text(self))


def publish_image(
    hub: Hub,
    file: str | os.PathLike[str],
    *,
    name: str | None = None,
    container_url: str | None = None,
) -> str:
    """Publish an image and return the address that a device downloads it from.

    Whoever has the address can read the image. On Azure it carries the signature of the
    container, with all that this one permits, to every device: give it a short life.

    Args:
        hub: The local hub keeps the image itself; one on Azure needs a container.
        file: The image, as `build_image` wrote it.
        name: How the address ends; None takes the file's name.
        container_url: The SAS URL of a Blob container; None takes the variable
            ``FWUPDATE_IMAGE_CONTAINER_URL`` for a hub on Azure, and the local hub otherwise.

    Returns:
        An HTTPS address, new with every call.

    Raises:
        FirmwareUpdateError: There is no such file, it is empty, or it cannot be published; the
            message tells what to do.

    Example:
        >>> uri = publish_image(hub, "edge-2.0.0.fw")  # doctest: +SKIP
        >>> invoke_firmware_update(hub.registry, device_id, uri)  # doctest: +SKIP
    """
    path = Path(file)
    name = path.name if name is None else name
    if not is_image_name(name):
        raise FirmwareUpdateError(
            f"An image cannot be published as {name!r}. Pass a name= of at most 128 letters, "
            "digits and . _ + - that begins and ends with no dot."
        )
    with _open(path) as content:
        if hub.kind == "local" and container_url is None:
            return _ImageUrl(_publish_on_hub(hub, name, content))
        blob_url = _new_blob_url(_container_url(container_url), name)
        _use_blob(blob_url, lambda blob: _upload(blob, content), advice=_NEW_CONTAINER_URL)
        return _ImageUrl(blob_url)


def unpublish_image(hub: Hub, url: str) -> None:
    """Delete an image that `publish_image` published; harmless when it is gone.

    Args:
        url: What `publish_image` returned.

    Raises:
        FirmwareUpdateError: It is no such address, or the image cannot be deleted.
    """
    parts = _split(url)
    if parts is not None and _is_signed(parts):
        _use_blob(url, _delete, advice=_DELETE_BY_HAND)
        return
    found = _LOCAL_PATH.fullmatch(parts.path) if parts and hub.kind == "local" else None
    if parts is None or found is None or parts.netloc != hub.host_name:
        raise FirmwareUpdateError(
            f"{shown(url)} is not an address of an image on {hub.host_name}. Pass what "
            "publish_image returned for this hub."
        )
    own_routes.send(hub, "DELETE", f"/$localhub/images/{found[1]}/{found[2]}")


def check_container_url(url: str) -> str:
    """Check the SAS URL of a Blob container; return its address without the signature.

    Raises:
        FirmwareUpdateError: It is no such address, or permits too little.
    """
    parts = _container_url(url)
    return f"https://{parts.netloc}{parts.path}"


@contextmanager
def _open(path: Path) -> Iterator[BinaryIO]:
    if path.is_dir():
        raise FirmwareUpdateError(f"{path} is a folder. Pass the file of an image.")
    try:
        content = path.open("rb")
    except OSError as error:
        raise FirmwareUpdateError(
            f"The image {path} cannot be read: {error.strerror}. Check the path."
        ) from error
    with content:
        if not content.seek(0, 2):
            raise FirmwareUpdateError(f"{path} is empty. Build the image again.")
        content.seek(0)
        yield content


# -- the local hub --------------------------------------------------------------------------------


def _publish_on_hub(hub: Hub, name: str, content: BinaryIO) -> str:
    response = own_routes.send(hub, "POST", f"/$localhub/images/{name}", content)
    return f"https://{hub.host_name}{response.json()['path']}"


# -- Blob storage ---------------------------------------------------------------------------------


def _container_url(given: str | None) -> SplitResult:
    text = read_setting(IMAGE_CONTAINER_VARIABLE) if given is None else given.strip()
    if not text:
        raise FirmwareUpdateError(
            "A hub on Azure keeps no images: they need a container in Blob storage. "
            + _NEW_CONTAINER_URL
        )
    parts = _split(text)
    if parts is None or not _is_signed(parts):
        raise FirmwareUpdateError(
            "The container's address is not of the form https://<account>.blob.core.windows.net/"
            f"<container>?<SAS with sig=…>. {_NEW_CONTAINER_URL}"
        )
    permissions = parse_qs(parts.query).get("sp")
    if permissions and ("r" not in permissions[0] or not set(permissions[0]) & {"c", "w"}):
        raise FirmwareUpdateError(
            f"The SAS of the container permits {permissions[0]!r} only, and devices have to read "
            f"what is written here. {_NEW_CONTAINER_URL}"
        )
    return parts


def _split(url: str) -> SplitResult | None:
    try:
        parts = urlsplit(url)
        usable = parts.scheme == "https" and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return None
    return parts if usable and parts.path.strip("/") else None


def _is_signed(parts: SplitResult) -> bool:
    return bool(parse_qs(parts.query).get("sig"))


def _new_blob_url(container: SplitResult, name: str) -> str:
    path = f"{container.path.rstrip('/')}/{secrets.token_hex(16)}/{name}"
    return container._replace(path=path, fragment="").geturl()


def _upload(blob: BlobClient, content: BinaryIO) -> None:
    from azure.storage.blob import ContentSettings

    octets = ContentSettings(content_type="application/octet-stream")
    blob.upload_blob(content, overwrite=False, content_settings=octets)


def _delete(blob: BlobClient) -> None:
    from azure.core.exceptions import ResourceNotFoundError

    with suppress(ResourceNotFoundError):
        blob.delete_blob(delete_snapshots="include")


def _use_blob(url: str, use: Callable[[BlobClient], object], *, advice: str) -> None:
    from azure.core.exceptions import AzureError, HttpResponseError
    from azure.storage.blob import BlobClient, ExponentialRetry

    try:
        with (
            masked_logs(),
            BlobClient.from_blob_url(
                str(url),
                retry_policy=ExponentialRetry(0, _BACKOFF, _RETRIES, random_jitter_range=0),
                max_single_put_size=_BLOCK,
                max_block_size=_BLOCK,
            ) as blob,
        ):
            use(blob)
            return
    except HttpResponseError as error:
        status, code = error.status_code, _code(error)
    except (AzureError, OSError, ValueError) as error:
        status, code = None, type(error).__name__
    # Raised here and not while the other is handled: its text and its request hold the address.
    raise FirmwareUpdateError(_storage_problem(url, status, code, advice))


def _code(error: Any) -> str:
    code = str(getattr(error.error_code, "value", error.error_code))
    return code if re.fullmatch(r"[A-Za-z]{1,80}", code) else "no code"


def _storage_problem(url: str, status: int | None, code: str, advice: str) -> str:
    if status is None:
        return (
            f"The Blob storage does not answer ({code}): {shown(url)}. Check the network, the "
            "account's name in the address, and a proxy if there is one."
        )
    answer = f"The Blob storage answers {status} ({code}) for {shown(url)}"
    if status in (401, 403):
        return f"{answer}: {_why_refused(url)} {advice}"
    if status == 404:
        return f"{answer}: there is no such container. {advice}"
    return f"{answer}. Try again later; check the account in the Azure portal if it stays so."


def _why_refused(url: str) -> str:
    expiry = parse_qs(urlsplit(url).query).get("se", [""])[0]
    try:
        moment = datetime.fromisoformat(expiry.replace("Z", "+00:00"))
    except ValueError:
        moment = datetime.max
    moment = moment.replace(tzinfo=moment.tzinfo or timezone.utc)
    if moment < datetime.now(timezone.utc):
        return f"its SAS expired on {moment:%Y-%m-%d at %H:%M} UTC."
    return "its SAS does not permit it, or the account's network rules keep this computer out."


__all__ = [
    "IMAGE_CONTAINER_VARIABLE",
    "check_container_url",
    "publish_image",
    "unpublish_image",
]
