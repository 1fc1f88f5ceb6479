"""`publish_image`: to the local hub, and to a container of Blob storage for a hub on Azure.

A small HTTPS server stands in for Blob storage. It stores what the unmodified azure-storage-blob
sends, and refuses a signature that is wrong or expired, as the storage does.
Source: Microsoft's REST reference of Put Blob, Put Block, Put Block List, Get Blob, Delete Blob.
"""

from __future__ import annotations

import base64
import json
import logging
import os
import re
import secrets
import threading
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, quote, unquote, urlsplit
from xml.etree import ElementTree

import pytest
import requests

from fwupdate_helpers import settings as settings_module
from fwupdate_helpers.errors import (
    FirmwareUpdateError,
    HubRequestError,
    HubUnauthorized,
    HubUnavailable,
)
from fwupdate_helpers.firmware import publish as publish_module
from fwupdate_helpers.firmware.publish import (
    IMAGE_CONTAINER_VARIABLE,
    publish_image,
    unpublish_image,
)
from fwupdate_helpers.hub import Hub, connect_hub
from fwupdate_helpers.localhub import tls
from fwupdate_helpers.localhub.sas import new_key
from fwupdate_helpers.localhub.statedir import StateDir
from tests.support import HubProcess

MIB = 1024 * 1024
KEY = base64.b64encode(b"not a key of any hub in the world").decode()
AZURE = f"HostName=example.azure-devices.net;SharedAccessKeyName=service;SharedAccessKey={KEY}"
SIGNATURE = "c2VjcmV0/c2lnbmF0dXJl+dGhhdA=="
LATER, BEFORE = "2199-01-01T00:00:00Z", "2020-01-01T12:30:00Z"


# -- a Blob storage -----------------------------------------------------------------------------


@dataclass
class Storage:
    """What the storage holds, and what it was asked.

    Attributes:
        blobs: By path, `/account/images/<folder>/<name>`.
        requests: Method, path and the headers of each request.
        busy: So many requests are answered with 503 first.
    """

    url: str = ""
    blobs: dict[str, tuple[bytes, str]] = field(default_factory=dict)
    blocks: dict[str, bytes] = field(default_factory=dict)
    requests: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    busy: int = 0

    def container(
        self, *, expiry: str = LATER, permissions: str = "racwd", signature: str = SIGNATURE
    ) -> str:
        """Return the SAS URL of the container `images`."""
        sas = f"sp={permissions}&se={quote(expiry, safe='')}&sv=2022-11-02&sr=c"
        return f"{self.url}/account/images?{sas}&sig={quote(signature, safe='')}"


def handler_of(storage: Storage) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self, status: int, code: str = "", body: bytes = b"", **headers: str) -> None:
            self.send_response(status)
            if code:
                headers["x-ms-error-code"] = code
                details = f"<Code>{code}</Code><Message>No.</Message>"
                body = f"<?xml version='1.0'?><Error>{details}</Error>".encode()
                headers["Content-Type"] = "application/xml"
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def handle_one(self) -> None:
            length = int(self.headers.get("Content-Length", 0))
            content = self.rfile.read(length)
            parts = urlsplit(self.path)
            query = {name: values[0] for name, values in parse_qs(parts.query).items()}
            path = unquote(parts.path)
            storage.requests.append((self.command, path, dict(self.headers)))
            if storage.busy:
                storage.busy -= 1
                self.answer(503, "ServerBusy")
            elif query.get("sig") != SIGNATURE or query["se"] < "2026":
                self.answer(403, "AuthenticationFailed")
            elif not path.startswith("/account/images/"):
                self.answer(404, "ContainerNotFound")
            elif needed(self.command) not in query["sp"]:
                self.answer(403, "AuthorizationPermissionMismatch")
            else:
                getattr(self, f"do_{self.command}_allowed")(path, query, content)

        do_GET = do_PUT = do_DELETE = do_HEAD = handle_one

        def do_PUT_allowed(self, path: str, query: dict[str, str], content: bytes) -> None:
            if query.get("comp") == "block":
                storage.blocks[query["blockid"]] = content
                return self.answer(201)
            if query.get("comp") == "blocklist":
                ids = [block.text for block in ElementTree.fromstring(content)]
                content = b"".join(storage.blocks.pop(str(id_)) for id_ in ids)
                type_ = self.headers["x-ms-blob-content-type"]
            else:
                assert self.headers["x-ms-blob-type"] == "BlockBlob"
                type_ = self.headers["x-ms-blob-content-type"]
            if self.headers.get("If-None-Match") == "*" and path in storage.blobs:
                return self.answer(409, "BlobAlreadyExists")
            storage.blobs[path] = content, type_
            modified = "Tue, 01 Jan 2030 00:00:00 GMT"
            self.answer(201, ETag='"0x8D"', Last_Modified=modified)

        def do_GET_allowed(self, path: str, query: dict[str, str], content: bytes) -> None:
            if path not in storage.blobs:
                return self.answer(404, "BlobNotFound")
            body, type_ = storage.blobs[path]
            if span := re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", "")):
                body = body[int(span[1]) : int(span[2]) + 1]
            self.answer(206 if span else 200, "", body, Content_Type=type_)

        def do_DELETE_allowed(self, path: str, query: dict[str, str], content: bytes) -> None:
            if storage.blobs.pop(path, None) is None:
                return self.answer(404, "BlobNotFound")
            self.answer(202)

        def log_message(self, format: str, *arguments: object) -> None:
            return

    return Handler


def needed(method: str) -> str:
    return {"PUT": "w", "GET": "r", "HEAD": "r", "DELETE": "d"}[method]


@pytest.fixture(scope="module")
def storage_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Storage, Path]]:
    state = StateDir(tmp_path_factory.mktemp("storage"))
    tls.ensure_certificates(state, "127.0.0.1")
    storage = Storage()
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler_of(storage))
    server.daemon_threads = True
    server.socket = tls.server_context(state).wrap_socket(server.socket, server_side=True)
    storage.url = f"https://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), name="storage")
    thread.start()
    yield storage, state.ca_file
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def storage(
    storage_server: tuple[Storage, Path], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Storage]:
    """Return an empty Blob storage, which this process trusts as it trusts the public one."""
    storage, ca_file = storage_server
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(ca_file))
    monkeypatch.setattr(publish_module, "_BACKOFF", 0)
    storage.blobs.clear()
    storage.requests.clear()
    yield storage
    storage.busy = 0


# -- hubs and images ----------------------------------------------------------------------------


@pytest.fixture
def local() -> Iterator[Hub]:
    with connect_hub() as hub:
        yield hub


@pytest.fixture
def azure(monkeypatch: pytest.MonkeyPatch) -> Hub:
    """Return a hub on Azure, to which nothing is sent here."""
    monkeypatch.delenv(IMAGE_CONTAINER_VARIABLE, raising=False)
    return Hub(kind="azure", connection_string=AZURE)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    file = tmp_path / "edge-2.0.0.fw"
    file.write_bytes(os.urandom(100_000))
    return file


def ca_of(hub: Hub, folder: Path) -> str:
    """Write what a device trusts to a file."""
    file = folder / "device-ca.pem"
    file.write_text(hub.device_options["server_verification_cert"], encoding="ascii")
    return str(file)


def error_of(action: Callable[[], object], *hidden: str) -> FirmwareUpdateError:
    """Return the error that an action raises, after a look for secrets in all that it tells."""
    with pytest.raises(FirmwareUpdateError) as raised:
        action()
    told = "".join(traceback.format_exception(raised.value))
    link: BaseException | None = raised.value
    while link is not None:
        told += f"{link!s} {link!r} {vars(link)}"
        link = link.__cause__ or link.__context__
    for secret in (*hidden, SIGNATURE, quote(SIGNATURE, safe="")):
        assert secret not in told
    return raised.value


# -- the local hub ------------------------------------------------------------------------------


def test_a_device_can_download_what_was_published_on_the_local_hub(
    local: Hub, image: Path, tmp_path: Path
) -> None:
    url = publish_image(local, image)

    assert url.startswith(f"https://{local.host_name}/firmware/")
    assert url.endswith("/edge-2.0.0.fw")
    trust = ca_of(local, tmp_path)
    answer = requests.get(url, verify=trust, timeout=30)
    assert (answer.status_code, answer.content) == (200, image.read_bytes())
    part = requests.get(url, headers={"Range": "bytes=10-19"}, verify=trust, timeout=30)
    assert (part.status_code, part.content) == (206, image.read_bytes()[10:20])


def test_an_unpublished_image_is_gone_and_may_be_unpublished_again(
    local: Hub, image: Path, tmp_path: Path
) -> None:
    url, other = publish_image(local, image), publish_image(local, str(image))
    unpublish_image(local, url)
    unpublish_image(local, url)

    trust = ca_of(local, tmp_path)
    assert requests.get(url, verify=trust, timeout=30).status_code == 404
    assert requests.get(other, verify=trust, timeout=30).status_code == 200
    unpublish_image(local, other)


def test_an_image_may_be_published_under_another_name(local: Hub, tmp_path: Path) -> None:
    file = tmp_path / "größte Änderung.fw"
    file.write_bytes(b"image")
    error = error_of(lambda: publish_image(local, file))
    assert "Pass a name=" in str(error)
    url = publish_image(local, file, name="edge-2.0.0+b7.fw")
    assert url.endswith("/edge-2.0.0+b7.fw")
    assert requests.get(url, verify=ca_of(local, tmp_path), timeout=30).content == b"image"
    unpublish_image(local, url)


def test_the_address_is_a_text_for_all_but_a_glance(local: Hub, image: Path) -> None:
    url = publish_image(local, image)
    token = url.split("/")[4]

    assert token not in repr(url)
    assert repr([url]) == f"['https://{local.host_name}/firmware/***/edge-2.0.0.fw']"
    assert json.loads(json.dumps({"fwPackageUri": url})) == {"fwPackageUri": str(url)}
    assert token in str(url) and token in f"{url}" and token in url.upper().lower() + url
    unpublish_image(local, url)


def test_neither_a_proxy_nor_a_netrc_gets_between(
    local: Hub, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("default login somebody password something\n", encoding="ascii")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    unpublish_image(local, publish_image(local, image))


@pytest.mark.parametrize("kind", ["missing", "a folder", "empty"])
def test_what_is_no_image_is_not_published(
    local: Hub, azure: Hub, storage: Storage, tmp_path: Path, kind: str
) -> None:
    (tmp_path / "a folder").mkdir()
    (tmp_path / "empty").touch()
    for hub, container in ((local, None), (azure, storage.container())):
        error = error_of(
            partial(publish_image, hub, tmp_path / kind, name="a.fw", container_url=container)
        )
        assert str(tmp_path / kind) in str(error)
        assert re.search(r"Check the path|Pass the file|Build the image", str(error))
    assert storage.requests == []


@pytest.mark.parametrize("name", ["../hub.db", "a/b", "", ".env", "a b", "a\x00", "x" * 129])
def test_a_bad_name_is_refused_before_anything_is_sent(
    local: Hub, azure: Hub, storage: Storage, image: Path, name: str
) -> None:
    for hub in (local, azure):
        url = storage.container()
        error = error_of(partial(publish_image, hub, image, name=name, container_url=url))
        assert "Pass a name=" in str(error)
    assert storage.requests == []


def local_hub(process: HubProcess, connection_string: str | None = None) -> Hub:
    return Hub(
        kind="local",
        connection_string=connection_string or process.connection_string,
        device_host=process.ready["device_host"],
        ca_file=Path(process.ca_file),
    )


def test_a_local_hub_that_has_stopped_is_said_to_be_so(
    own_hub_process: HubProcess, image: Path
) -> None:
    hub = local_hub(own_hub_process)
    url = publish_image(hub, image)
    own_hub_process.stop()
    token = url.split("/")[4]
    for action in (lambda: publish_image(hub, image), lambda: unpublish_image(hub, url)):
        error = error_of(action, token)
        assert isinstance(error, HubUnavailable)
        assert "set-up cell again" in str(error)


def test_a_key_that_is_no_longer_good_is_said_to_be_so(
    hub_process: HubProcess, image: Path
) -> None:
    string = re.sub(r"(SharedAccessKey=).*", rf"\g<1>{new_key()}", hub_process.connection_string)
    hub = local_hub(hub_process, string)
    assert isinstance(error_of(lambda: publish_image(hub, image)), HubUnauthorized)


SMALL = """
import sys
from fwupdate_helpers.localhub import __main__ as program, images
images.QUOTA = 150_000
sys.exit(program.main(sys.argv[1:]))
"""


def test_what_the_local_hub_refuses_it_explains(tmp_path: Path, image: Path) -> None:
    process = HubProcess(tmp_path / "hub")
    process.program = ("-c", SMALL)
    with process:
        hub = local_hub(process)
        publish_image(hub, image)
        error = error_of(lambda: publish_image(hub, image))
    assert isinstance(error, HubRequestError)
    assert error.status == 413
    assert "150000 bytes" in str(error) and "Unpublish images" in str(error)


@pytest.mark.parametrize(
    "url",
    [
        "https://127.0.0.1:1/firmware/{token}/a.fw",
        "https://{host}/firmware/{token}",
        "https://{host}/firmware/{token}/../../x",
        "https://{host}/twins/{token}",
        "http://{host}/firmware/{token}/a.fw",
        "https://{host}:99999/firmware/{token}/a.fw",
        "https://[/firmware/{token}/a.fw",
        "a.fw",
        "",
    ],
)
def test_what_was_not_published_here_is_not_unpublished(local: Hub, url: str) -> None:
    token = secrets.token_urlsafe(16)
    where = url.format(host=local.host_name, token=token)
    error = error_of(lambda: unpublish_image(local, where), token)
    assert "publish_image returned" in str(error)


# -- Azure --------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 4 * MIB, 9 * MIB + 1])
def test_an_image_becomes_a_blob_that_a_device_can_download(
    azure: Hub, storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    file = tmp_path / "edge-2.0.0.fw"
    file.write_bytes(os.urandom(size))
    monkeypatch.setenv(IMAGE_CONTAINER_VARIABLE, f" {storage.container()} ")

    url = publish_image(azure, file)

    path = urlsplit(url).path
    assert re.fullmatch(r"/account/images/[0-9a-f]{32}/edge-2\.0\.0\.fw", path)
    assert urlsplit(url).query == urlsplit(storage.container()).query
    assert storage.blobs == {path: (file.read_bytes(), "application/octet-stream")}
    assert requests.get(url, timeout=30).content == file.read_bytes()
    part = requests.get(url, headers={"Range": "bytes=0-0"}, timeout=30)
    assert (part.status_code, part.content) == (206, file.read_bytes()[:1])
    sent = [method for method, _, _ in storage.requests if method == "PUT"]
    assert len(sent) == (1 if size <= 4 * MIB else 4)


def test_the_container_may_be_named_in_the_env_file_of_the_repository(
    azure: Hub, storage: Storage, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pyproject.toml").touch()
    line = f"{IMAGE_CONTAINER_VARIABLE}='{storage.container()}'"
    (tmp_path / ".env").touch(mode=0o600)
    (tmp_path / ".env").write_text(line, encoding="utf-8")
    monkeypatch.setattr(settings_module, "_REPOSITORY", tmp_path)
    publish_image(azure, image)
    assert len(storage.blobs) == 1


def test_every_blob_has_a_folder_of_its_own(azure: Hub, storage: Storage, image: Path) -> None:
    urls = {
        publish_image(azure, image, container_url=storage.container(permissions="rcw"))
        for _ in range(3)
    }
    assert len(urls) == len(storage.blobs) == 3


def test_a_container_that_is_named_serves_the_local_hub_too(
    local: Hub, storage: Storage, image: Path
) -> None:
    url = publish_image(local, image, container_url=storage.container())
    assert url.startswith(storage.url)
    unpublish_image(local, url)
    assert storage.blobs == {}


def test_a_blob_is_deleted_and_may_be_deleted_again(
    azure: Hub, storage: Storage, image: Path
) -> None:
    url = publish_image(azure, image, container_url=storage.container())
    unpublish_image(azure, url)
    assert storage.blobs == {}
    unpublish_image(azure, url)


def test_a_storage_that_is_busy_for_a_moment_gets_the_image(
    azure: Hub, storage: Storage, image: Path
) -> None:
    storage.busy = 1
    publish_image(azure, image, container_url=storage.container())
    assert len(storage.blobs) == 1
    assert [method for method, _, _ in storage.requests] == ["PUT", "PUT"]


def test_without_a_container_the_error_tells_how_to_name_one(azure: Hub, image: Path) -> None:
    for given in (None, "", "  "):
        error = error_of(partial(publish_image, azure, image, container_url=given))
        assert IMAGE_CONTAINER_VARIABLE in str(error)
        assert "SAS URL of a container" in str(error)


SIG = quote(SIGNATURE, safe="")


@pytest.mark.parametrize(
    "url",
    [
        f"http://account.blob.core.windows.net/images?sig={SIG}",
        f"https://account.blob.core.windows.net?sig={SIG}",
        f"https://account.blob.core.windows.net/?sig={SIG}",
        "https://account.blob.core.windows.net/images",
        f"https://account.blob.core.windows.net/images#sig={SIG}",
        f"DefaultEndpointsProtocol=https;AccountName=account;AccountKey={SIGNATURE}",
        f"https://[account/images?sig={SIG}",
        f"https://account:99999/images?sig={SIG}",
        f"images?sig={SIG}",
    ],
)
def test_what_is_no_address_of_a_container_is_refused(azure: Hub, image: Path, url: str) -> None:
    error = error_of(lambda: publish_image(azure, image, container_url=url))
    assert "https://<account>.blob.core.windows.net/<container>?" in str(error)


@pytest.mark.parametrize("permissions", ["r", "cw", "rl"])
def test_a_signature_that_permits_too_little_is_named(
    azure: Hub, storage: Storage, image: Path, permissions: str
) -> None:
    url = storage.container(permissions=permissions)
    error = error_of(lambda: publish_image(azure, image, container_url=url))
    assert f"permits {permissions!r} only" in str(error)
    assert storage.requests == []


OTHER = "YW5vdGhlciBzaWduYXR1cmU="
REFUSALS = {
    "expired": ({"expiry": BEFORE}, "expired on 2020-01-01 at 12:30 UTC"),
    "expired, in the short form": ({"expiry": "2020-01-01"}, "expired on 2020-01-01"),
    "malformed expiry": ({"expiry": "2020-tomorrow"}, "does not permit it"),
    "another signature": ({"signature": OTHER}, "does not permit it"),
}


@pytest.mark.parametrize(("options", "words"), REFUSALS.values(), ids=REFUSALS)
def test_a_signature_that_is_refused_is_explained(
    azure: Hub, storage: Storage, image: Path, options: dict[str, str], words: str
) -> None:
    url = storage.container(**options)
    error = error_of(lambda: publish_image(azure, image, container_url=url), OTHER)
    assert "403 (AuthenticationFailed)" in str(error)
    assert words in str(error)
    assert IMAGE_CONTAINER_VARIABLE in str(error)


def test_a_container_that_is_not_there_is_named(azure: Hub, storage: Storage, image: Path) -> None:
    url = storage.container().replace("/images?", "/other?")
    error = error_of(lambda: publish_image(azure, image, container_url=url))
    assert "there is no such container" in str(error)


def test_who_may_not_delete_a_blob_is_told_what_else_to_do(
    azure: Hub, storage: Storage, image: Path
) -> None:
    url = publish_image(azure, image, container_url=storage.container(permissions="rcw"))
    error = error_of(lambda: unpublish_image(azure, url))
    assert "403 (AuthorizationPermissionMismatch)" in str(error)
    assert "Azure portal" in str(error)
    assert len(storage.blobs) == 1


def test_a_storage_that_does_not_answer_is_named_without_its_signature(
    azure: Hub, storage: Storage, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage.busy = 4
    url = storage.container()
    error = error_of(lambda: publish_image(azure, image, container_url=url))
    assert "503 (ServerBusy)" in str(error) and "Try again later" in str(error)

    closed = re.sub(r":\d+/", ":1/", url)
    error = error_of(lambda: publish_image(azure, image, container_url=closed))
    assert "does not answer" in str(error) and "Check the network" in str(error)

    monkeypatch.delenv("REQUESTS_CA_BUNDLE")
    error = error_of(lambda: publish_image(azure, image, container_url=url))
    assert "does not answer" in str(error)


# -- secrets ------------------------------------------------------------------------------------


def test_no_library_logs_the_signature_or_the_token(
    azure: Hub,
    local: Hub,
    storage: Storage,
    image: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with caplog.at_level(logging.DEBUG):
        storage.busy = 1
        blob = publish_image(azure, image, container_url=storage.container())
        on_hub = publish_image(local, image)
        for hub, url in ((azure, blob), (local, on_hub)):
            unpublish_image(hub, url)
        error_of(lambda: publish_image(azure, image, container_url=f"{storage.url}/a/b?sig={SIG}"))

    assert "urllib3" in caplog.text and "azure" in caplog.text
    for secret in (SIGNATURE, SIG, on_hub.split("/")[4], "SharedAccessSignature"):
        assert secret not in caplog.text
    for name in ("urllib3.connectionpool", "urllib3.util.retry"):
        assert logging.getLogger(name).filters == [], "the masks are taken off again"
