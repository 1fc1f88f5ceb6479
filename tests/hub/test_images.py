"""Published images: the local hub keeps them and serves them over HTTPS."""

from __future__ import annotations

import asyncio
import hashlib
import http.client
import json
import logging
import os
import re
import socket
import ssl
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from fwupdate_helpers.localhub import background
from fwupdate_helpers.localhub.error_responses import errors_as_json
from fwupdate_helpers.localhub.errors import HubError
from fwupdate_helpers.localhub.images import MAX_AGE, Image, ImageStore
from fwupdate_helpers.localhub.statedir import StateDir
from tests.rest import (
    Reply,
    assert_error,
    call,
    create_device,
    service_host,
    token,
    twin_path,
    wait_for,
)
from tests.support import HubProcess

MIB = 1024 * 1024
CONTENT = b"".join(b"%06d\n" % n for n in range(10_000))
SIZE = len(CONTENT)
PUBLISH = "/$localhub/images"


@dataclass(frozen=True)
class Download:
    """An answer to a device: its status, headers and the bytes."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes


def publish(hub: HubProcess, content: bytes = CONTENT, name: str = "edge-2.0.0.fw") -> Any:
    """Publish an image as a service does; return where it is, its size and its ETag."""
    reply = call(hub, "POST", f"{PUBLISH}/{name}", content, query="")
    assert reply.status == 200, reply.text
    return reply.content


def own_path(path: str) -> str:
    """Return the path by which a service replaces and deletes what is served at `path`."""
    return path.replace("/firmware/", f"{PUBLISH}/", 1)


def replace(hub: HubProcess, path: str, content: bytes) -> Reply:
    return call(hub, "PUT", own_path(path), content, query="")


def delete(hub: HubProcess, path: str) -> Reply:
    return call(hub, "DELETE", own_path(path), query="")


def connection(hub: HubProcess) -> http.client.HTTPSConnection:
    trust = ssl.create_default_context(cafile=hub.ca_file)
    return http.client.HTTPSConnection(service_host(hub), timeout=30, context=trust)


def get(
    hub: HubProcess, path: str, headers: dict[str, str] | None = None, method: str = "GET"
) -> Download:
    """Download as a device does: without any credentials but the address."""
    client = connection(hub)
    try:
        client.request(method, path, headers=headers or {})
        response = client.getresponse()
        return Download(response.status, response.headers, response.read())
    finally:
        client.close()


def stored(hub: HubProcess) -> list[Path]:
    """Return every file that the hub keeps of images."""
    return sorted(file for file in (hub.state_dir / "images").rglob("*") if file.is_file())


# -- publish and download -----------------------------------------------------------------------


def test_a_published_image_can_be_downloaded_without_credentials(hub_process: HubProcess) -> None:
    image = publish(hub_process)

    assert re.fullmatch(r"/firmware/[A-Za-z0-9_-]{22,}/edge-2\.0\.0\.fw", image["path"])
    assert image["size"] == SIZE
    download = get(hub_process, image["path"])
    assert (download.status, download.body) == (200, CONTENT)
    assert download.headers["ETag"] == image["etag"]
    assert download.headers["Accept-Ranges"] == "bytes"
    assert download.headers["Content-Type"] == "application/octet-stream"
    assert download.headers["Content-Length"] == str(SIZE)


def test_head_tells_all_and_sends_nothing(hub_process: HubProcess) -> None:
    image = publish(hub_process)
    # A range is for GET only (RFC 9110, section 14.2).
    for headers in ({}, {"Range": "bytes=0-4"}):
        answer = get(hub_process, image["path"], headers, method="HEAD")
        assert (answer.status, answer.body) == (200, b"")
        assert answer.headers["Content-Length"] == str(SIZE)
        assert answer.headers["ETag"] == image["etag"]


def test_every_publication_has_an_address_of_its_own(hub_process: HubProcess) -> None:
    paths = {publish(hub_process)["path"] for _ in range(3)}
    assert len(paths) == 3
    assert all(get(hub_process, path).body == CONTENT for path in paths)


def test_an_image_arrives_in_chunks_of_unknown_number(hub_process: HubProcess) -> None:
    client = connection(hub_process)
    headers = {"Authorization": token(hub_process)}
    pieces = (CONTENT[n : n + 999] for n in range(0, SIZE, 999))
    client.request("POST", f"{PUBLISH}/a.fw", pieces, headers, encode_chunked=True)
    image = json.loads(client.getresponse().read())
    client.close()
    assert get(hub_process, image["path"]).body == CONTENT


def test_an_image_may_be_larger_than_any_other_body(hub_process: HubProcess) -> None:
    large = os.urandom(3 * MIB + 1)
    image = publish(hub_process, large)
    assert image["size"] == len(large)
    digest = hashlib.sha256(get(hub_process, image["path"]).body).digest()
    assert digest == hashlib.sha256(large).digest()
    delete(hub_process, image["path"])


def test_nothing_is_no_image(hub_process: HubProcess) -> None:
    before = stored(hub_process)
    assert_error(call(hub_process, "POST", f"{PUBLISH}/a.fw", b""), 400004, "ArgumentInvalid")
    assert stored(hub_process) == before


@pytest.mark.parametrize("name", ["a", "A.fw", "edge-2.0.0+b7_x.fw", "x" * 128])
def test_a_good_name_ends_the_address(hub_process: HubProcess, name: str) -> None:
    path = publish(hub_process, name=name)["path"]
    assert path.endswith(f"/{name}")
    assert get(hub_process, path).body == CONTENT


@pytest.mark.parametrize(
    "name",
    [
        *(".env", "..", ".", "a.", "%2e%2e", "..%2fx", "a%2Fb", "a%5Cb", "a%20b", "%C3%A9"),
        *("a%00", "a:b", "x" * 129, "%2e%2e%2f%2e%2e%2fhub.db"),
    ],
)
def test_a_bad_name_is_refused(hub_process: HubProcess, name: str) -> None:
    image = publish(hub_process)
    before = stored(hub_process)
    folder = own_path(image["path"]).rpartition("/")[0]
    for method, path in (("POST", f"{PUBLISH}/{name}"), ("PUT", f"{folder}/{name}")):
        reply = call(hub_process, method, path, CONTENT, query="")
        assert reply.error in ("ArgumentInvalid", "NotFound"), reply.text
    assert stored(hub_process) == before


# -- parts --------------------------------------------------------------------------------------

PARTS = {
    "the first bytes": ("bytes=0-99", 0, 100),
    "the first byte": ("bytes=0-0", 0, 1),
    "some in the middle": ("bytes=1000-1999", 1000, 2000),
    "the last byte": (f"bytes={SIZE - 1}-{SIZE - 1}", SIZE - 1, SIZE),
    "all from one on": ("bytes=69000-", 69000, SIZE),
    "all": ("bytes=0-", 0, SIZE),
    "the last bytes": ("bytes=-500", SIZE - 500, SIZE),
    "more last bytes than there are": ("bytes=-99999999", 0, SIZE),
    "beyond the end": (f"bytes=100-{10**17}", 100, SIZE),
    "in capitals": ("BYTES=5-6", 5, 7),
}


@pytest.fixture(scope="module")
def image(hub_process: HubProcess) -> Any:
    """Return an image that no test changes."""
    return publish(hub_process)


@pytest.mark.parametrize(("header", "start", "stop"), PARTS.values(), ids=PARTS)
def test_a_part_is_sent(
    hub_process: HubProcess, image: Any, header: str, start: int, stop: int
) -> None:
    answer = get(hub_process, image["path"], {"Range": header})
    assert (answer.status, answer.body) == (206, CONTENT[start:stop])
    assert answer.headers["Content-Range"] == f"bytes {start}-{stop - 1}/{SIZE}"
    assert answer.headers["Content-Length"] == str(stop - start)
    assert answer.headers["ETag"] == image["etag"]


@pytest.mark.parametrize("header", [f"bytes={SIZE}-", "bytes=99999999-100000000", "bytes=-0"])
def test_a_part_beyond_the_end_is_not_satisfiable(
    hub_process: HubProcess, image: Any, header: str
) -> None:
    answer = get(hub_process, image["path"], {"Range": header})
    assert (answer.status, answer.body) == (416, b"")
    assert answer.headers["Content-Range"] == f"bytes */{SIZE}"
    assert answer.headers["ETag"] == image["etag"]


@pytest.mark.parametrize(
    "header",
    [
        *("bytes=0-1,4-5", "bytes=5-2", "bytes=-", "bytes=a-b", "lines=0-5", "bytes", "0-5"),
        f"bytes={'9' * 5000}-",
    ],
)
def test_several_ranges_and_malformed_ones_bring_the_whole(
    hub_process: HubProcess, image: Any, header: str
) -> None:
    answer = get(hub_process, image["path"], {"Range": header})
    assert (answer.status, answer.body) == (200, CONTENT)


# -- preconditions ------------------------------------------------------------------------------


def test_the_rest_comes_only_while_the_image_is_the_same(
    hub_process: HubProcess, image: Any
) -> None:
    def status(condition: str) -> int:
        headers = {"Range": "bytes=100-", "If-Range": condition}
        answer = get(hub_process, image["path"], headers)
        assert answer.body == (CONTENT[100:] if answer.status == 206 else CONTENT)
        return answer.status

    assert status(image["etag"]) == 206
    for other in ('"another"', image["etag"].strip('"'), f"W/{image['etag']}", "*"):
        assert status(other) == 200
    assert status("Wed, 21 Oct 2099 07:28:00 GMT") == 200
    beyond = {"Range": f"bytes={SIZE}-", "If-Range": '"another"'}
    assert get(hub_process, image["path"], beyond).status == 200


def test_if_match_lets_only_its_own_image_through(hub_process: HubProcess, image: Any) -> None:
    def status(condition: str, **more: str) -> int:
        return get(hub_process, image["path"], {"If-Match": condition, **more}).status

    assert status(image["etag"]) == 200
    assert status(f'"another", {image["etag"]}', Range="bytes=1-2") == 206
    assert status("*") == 200
    for other in ('"another"', f"W/{image['etag']}", "malformed"):
        assert status(other) == 412
        assert status(other, Range="bytes=100-") == 412


def test_who_has_the_image_already_gets_nothing(hub_process: HubProcess, image: Any) -> None:
    for condition in (image["etag"], f"W/{image['etag']}", "*"):
        answer = get(hub_process, image["path"], {"If-None-Match": condition})
        assert (answer.status, answer.body) == (304, b"")
        assert answer.headers["ETag"] == image["etag"]
    assert get(hub_process, image["path"], {"If-None-Match": '"another"'}).status == 200


# -- replace and delete -------------------------------------------------------------------------


def test_a_replaced_image_has_the_same_address_and_another_etag(hub_process: HubProcess) -> None:
    first = publish(hub_process, b"version 1")
    etags = [first["etag"]]
    for number in range(2, 6):  # of the same size, and within one tick of many file systems
        reply = replace(hub_process, first["path"], b"version %d" % number)
        assert reply.content["path"] == first["path"]
        etags.append(reply.content["etag"])
        download = get(hub_process, first["path"])
        assert download.body == b"version %d" % number
        assert download.headers["ETag"] == etags[-1]
    assert len(set(etags)) == 5
    files = [file for file in stored(hub_process) if file.parent.name in first["path"]]
    assert len(files) == 1, "replaced versions are gone"


def test_the_same_content_has_the_same_etag(hub_process: HubProcess) -> None:
    image = publish(hub_process)
    assert replace(hub_process, image["path"], CONTENT).content["etag"] == image["etag"]
    assert get(hub_process, image["path"]).body == CONTENT


@contextmanager
def slow_download(hub: HubProcess, path: str) -> Iterator[http.client.HTTPResponse]:
    """Begin a download and read its headers; the block reads on with what it is given."""
    host, port = hub.ready["device_host"], hub.ready["service_port"]
    plain = socket.socket()
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    plain.settimeout(30)
    plain.connect((host, port))
    trust = ssl.create_default_context(cafile=hub.ca_file)
    with trust.wrap_socket(plain, server_hostname=host) as tls:
        tls.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        response = http.client.HTTPResponse(tls)
        response.begin()
        yield response


def test_who_downloads_the_old_image_gets_it_whole(hub_process: HubProcess) -> None:
    old, new = os.urandom(16 * MIB), os.urandom(16 * MIB)
    image = publish(hub_process, old)
    with slow_download(hub_process, image["path"]) as download:
        begun = download.read(1000)
        assert replace(hub_process, image["path"], new).status == 200
        assert get(hub_process, image["path"]).body == new
        rest = download.read()
    assert begun + rest == old
    assert download.headers["ETag"] == image["etag"]
    resumed = get(
        hub_process, image["path"], {"Range": "bytes=1000-", "If-Range": download.headers["ETag"]}
    )
    assert (resumed.status, resumed.body) == (200, new)
    delete(hub_process, image["path"])


def test_only_what_is_there_can_be_replaced(hub_process: HubProcess) -> None:
    image = publish(hub_process)
    before = stored(hub_process)
    other_name = image["path"].replace("edge", "hedge")
    for path in (other_name, "/firmware/AAAAAAAAAAAAAAAAAAAAAA/edge-2.0.0.fw"):
        assert_error(replace(hub_process, path, b"new"), 404000, "NotFound")
    assert_error(replace(hub_process, image["path"], b""), 400004, "ArgumentInvalid")
    assert get(hub_process, image["path"]).body == CONTENT
    assert stored(hub_process) == before


def test_a_deleted_image_is_gone_and_may_be_deleted_again(hub_process: HubProcess) -> None:
    image = publish(hub_process)
    other_name = image["path"].replace("edge", "hedge")
    for path in (other_name, "/firmware/AAAAAAAAAAAAAAAAAAAAAA/edge-2.0.0.fw"):
        assert delete(hub_process, path).status == 204
    assert get(hub_process, image["path"]).status == 200
    for _ in range(2):
        assert delete(hub_process, image["path"]).status == 204
        assert get(hub_process, image["path"]).status == 404
    token_folder = image["path"].split("/")[2]
    assert not (hub_process.state_dir / "images" / token_folder).exists()


# -- who may do what ----------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["service", "device", "registryRead"])
def test_publishing_needs_registry_write(hub_process: HubProcess, image: Any, policy: str) -> None:
    own = own_path(image["path"])
    for method, path in (("POST", f"{PUBLISH}/a.fw"), ("PUT", own), ("DELETE", own)):
        reply = call(hub_process, method, path, b"new", policy=policy)
        assert_error(reply, 401002, "IotHubUnauthorizedAccess")
        assert_error(
            call(hub_process, method, path, b"new", authorization=""), 401003, "IotHubUnauthorized"
        )
    assert get(hub_process, image["path"]).body == CONTENT


def test_a_wrong_token_and_a_wrong_name_are_told_apart_by_nobody(
    hub_process: HubProcess, image: Any
) -> None:
    secret = image["path"].split("/")[2]
    nothing = re.compile(rb"Tracking ID:[^\"]*")
    answers = {
        (answer.status, nothing.sub(b"", answer.body))
        for path in (
            f"/firmware/{secret}/another.fw",
            f"/firmware/{secret[:-1]}/edge-2.0.0.fw",
            f"/firmware/{secret.swapcase()}/edge-2.0.0.fw",
            f"/firmware/{secret}",
            f"/firmware/{secret}/",
            f"/firmware/{secret}/edge-2.0.0.fw/more",
            f"/firmware/{secret}%2Fedge-2.0.0.fw",
            "/firmware/",
            "/firmware",
        )
        for answer in [get(hub_process, path)]
    }
    assert len(answers) == 1
    assert answers.pop()[0] == 404


@pytest.mark.parametrize(
    "target",
    [
        "/firmware/../../hub.db",
        "/firmware/../hub.db",
        "/firmware/{token}/../../../hub.db",
        "/firmware/{token}/../../hub.db",
        "/firmware/%2e%2e/hub.db",
        "/firmware/%2e%2e%2f%2e%2e%2fhub.db/edge-2.0.0.fw",
        "/firmware/{token}/%2e%2e%2f%2e%2e%2fhub.db",
        "/firmware/{token}/..%5c..%5chub.db",
        "/firmware/..\\..\\hub.db",
        "/firmware/{token}\\..\\..\\hub.db",
        "/firmware/{token}/edge-2.0.0.fw%00",
        "/firmware/{token}/edge-2.0.0.fw\x00",
        "/firmware/\x00/hub.db",
        "/firmware//etc/passwd",
        "/firmware/C:/hub.db",
        "/firmware/./{file}",
        "/firmware/{token}/{file}",
        "//{token}/edge-2.0.0.fw",
    ],
)
def test_no_address_leads_out_of_the_published_images(
    hub_process: HubProcess, image: Any, target: str
) -> None:
    secret = image["path"].split("/")[2]
    (file,) = (hub_process.state_dir / "images" / secret).iterdir()
    raw = target.format(token=secret, file=file.name).encode()
    host = hub_process.ready["device_host"]
    trust = ssl.create_default_context(cafile=hub_process.ca_file)
    address = (host, hub_process.ready["service_port"])
    with (
        socket.create_connection(address, timeout=30) as plain,
        trust.wrap_socket(plain, server_hostname=host) as tls,
    ):
        tls.sendall(b"GET " + raw + b" HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        response = http.client.HTTPResponse(tls)
        response.begin()
        assert response.status in (400, 401, 404)
        body = response.read()
    assert b"SQLite" not in body and b"000001" not in body
    assert str(hub_process.state_dir).encode() not in body


# -- uploads that fail --------------------------------------------------------------------------


@contextmanager
def half_an_upload(
    hub: HubProcess, method: str = "POST", path: str = f"{PUBLISH}/a.fw"
) -> Iterator[None]:
    """Send half of an image, and wait until the hub has begun to write it."""
    client = connection(hub)
    client.putrequest(method, path)
    client.putheader("Authorization", token(hub))
    client.putheader("Content-Length", str(2 * SIZE))
    client.endheaders(CONTENT)
    wait_for(lambda: any(file.stat().st_size for file in uploads(hub)))
    yield
    client.close()


def uploads(hub: HubProcess) -> list[Path]:
    return list((hub.state_dir / "images").glob(".upload-*"))


def test_an_upload_that_is_cut_off_leaves_nothing(own_hub_process: HubProcess) -> None:
    hub = own_hub_process
    image = publish(hub)
    before = stored(hub)
    with half_an_upload(hub):
        pass
    wait_for(lambda: stored(hub) == before)
    with half_an_upload(hub, "PUT", own_path(image["path"])):
        assert get(hub, image["path"]).body == CONTENT
    wait_for(lambda: stored(hub) == before)
    assert get(hub, image["path"]).body == CONTENT
    assert hub.stop() == ""


def test_what_a_killed_hub_was_writing_is_gone_after_its_restart(
    own_hub_process: HubProcess,
) -> None:
    hub = own_hub_process
    image = publish(hub)
    before = stored(hub)
    with half_an_upload(hub):
        hub.kill()
    assert len(stored(hub)) == len(before) + 1
    hub.start()
    assert stored(hub) == before
    assert get(hub, image["path"]).body == CONTENT


def test_a_hub_that_stops_keeps_no_half_image(own_hub_process: HubProcess) -> None:
    with half_an_upload(own_hub_process):
        assert own_hub_process.stop() == ""
    assert stored(own_hub_process) == []


SMALL = """
import sys
from fwupdate_helpers.localhub import __main__ as program, images
images.QUOTA = 150_000
sys.exit(program.main(sys.argv[1:]))
"""


@pytest.fixture
def small_hub(tmp_path: Path) -> Iterator[HubProcess]:
    """Return a hub with room for two images of `CONTENT`."""
    hub = HubProcess(tmp_path / "hub")
    hub.program = ("-c", SMALL)
    with hub:
        yield hub


def test_too_many_images_are_refused_with_what_to_do(small_hub: HubProcess) -> None:
    first, _ = publish(small_hub), publish(small_hub)
    before = stored(small_hub)

    refused = [
        call(small_hub, "POST", f"{PUBLISH}/a.fw", CONTENT),
        call(small_hub, "POST", f"{PUBLISH}/a.fw", bytes(8 * MIB)),
        replace(small_hub, first["path"], CONTENT),
        chunked_upload(small_hub),
    ]

    for reply in refused:
        assert_error(reply, 413001, "MessageTooLarge")
        assert "150000 bytes" in reply.content["Message"]
        assert "Unpublish images" in reply.content["Message"]
    assert stored(small_hub) == before
    delete(small_hub, first["path"])
    publish(small_hub)


def chunked_upload(hub: HubProcess) -> Reply:
    """Upload without telling the length before."""
    client = connection(hub)
    headers = {"Authorization": token(hub)}
    client.request("POST", f"{PUBLISH}/a.fw", iter([CONTENT]), headers, encode_chunked=True)
    response = client.getresponse()
    reply = Reply(response.status, response.headers, response.read().decode())
    client.close()
    return reply


def test_images_that_arrive_at_once_share_the_room(small_hub: HubProcess) -> None:
    def status(number: int) -> int:
        path = f"{PUBLISH}/{number}.fw"
        return call(small_hub, "POST", path, CONTENT).status

    with ThreadPoolExecutor(6) as pool:
        statuses = list(pool.map(status, range(6)))

    assert set(statuses) <= {200, 413}
    assert statuses.count(200) <= 2
    assert len(stored(small_hub)) == statuses.count(200)


# -- over time ----------------------------------------------------------------------------------


def test_images_outlive_a_restart(own_hub_process: HubProcess) -> None:
    hub = own_hub_process
    image = publish(hub)
    second = replace(hub, image["path"], b"second").content
    hub.stop()
    hub.start()

    download = get(hub, image["path"])
    assert (download.body, download.headers["ETag"]) == (b"second", second["etag"])
    replace(hub, image["path"], b"third")
    hub.kill()
    hub.start()
    assert get(hub, image["path"]).body == b"third"


def test_images_of_more_than_a_week_are_dropped_at_the_start(own_hub_process: HubProcess) -> None:
    hub = own_hub_process
    old, young = publish(hub, b"old"), publish(hub, b"young")
    for image, age in ((old, MAX_AGE), (young, MAX_AGE - timedelta(minutes=5))):
        (file,) = (hub.state_dir / "images" / image["path"].split("/")[2]).iterdir()
        moment = time.time() - age.total_seconds() - 1
        os.utime(file, (moment, moment))
    assert get(hub, old["path"]).status == 200
    hub.stop()
    hub.start()

    assert get(hub, old["path"]).status == 404
    assert get(hub, young["path"]).body == b"young"
    assert len(stored(hub)) == len(list((hub.state_dir / "images").iterdir())) == 1


def test_a_reset_deletes_all_images(own_hub_process: HubProcess) -> None:
    publish(own_hub_process)
    background.reset(StateDir(own_hub_process.state_dir))
    assert not (own_hub_process.state_dir / "images").exists()


@pytest.mark.skipif(os.name != "posix", reason="Windows has no such modes")
def test_nobody_else_may_look_for_addresses(hub_process: HubProcess, image: Any) -> None:
    folder = hub_process.state_dir / "images"
    entries = [folder, folder / image["path"].split("/")[2], *stored(hub_process)]
    assert all(entry.stat().st_mode & 0o077 == 0 for entry in entries)


# -- others meanwhile ---------------------------------------------------------------------------


def test_the_hub_answers_while_images_come_and_go(hub_process: HubProcess, device_id: str) -> None:
    create_device(hub_process, device_id)
    image = publish(hub_process, os.urandom(24 * MIB))
    ended = threading.Event()

    def keep_busy() -> int:
        count = 0
        while not ended.is_set():
            assert len(get(hub_process, image["path"]).body) == 24 * MIB
            count += 1
        return count

    with (
        ThreadPoolExecutor(1) as pool,
        slow_download(hub_process, image["path"]) as download,
    ):
        download.read(1)
        downloads = pool.submit(keep_busy)
        seconds = [duration(lambda: read_twin(hub_process, device_id)) for _ in range(30)]
        ended.set()
        assert downloads.result() >= 1
    assert max(seconds) < 0.5, sorted(seconds)[-5:]
    delete(hub_process, image["path"])


def read_twin(hub: HubProcess, device_id: str) -> None:
    assert call(hub, "GET", twin_path(device_id)).status == 200


def duration(action: Callable[[], None]) -> float:
    begin = time.perf_counter()
    action()
    return time.perf_counter() - begin


def test_a_device_that_hangs_up_leaves_no_trace_in_the_log(own_hub_process: HubProcess) -> None:
    image = publish(own_hub_process, os.urandom(8 * MIB))
    for _ in range(3):
        with slow_download(own_hub_process, image["path"]) as download:
            download.read(1000)
    assert get(own_hub_process, image["path"]).status == 200
    assert own_hub_process.stop() == ""


def test_the_token_of_an_image_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def fail(request: web.Request) -> web.StreamResponse:
        raise ZeroDivisionError

    for path in ("/firmware/s3cret/a.fw", f"{PUBLISH}/s3cret/a.fw"):
        answer = asyncio.run(_answer(path, fail))
        assert answer.status == 500
        assert "s3cret" not in caplog.text
        assert path.replace("s3cret", "***") in caplog.text
        assert caplog.records[-1].levelno == logging.ERROR


async def _answer(path: str, handler: Any) -> web.StreamResponse:
    return await errors_as_json(make_mocked_request("GET", path), handler)


# -- the store alone ----------------------------------------------------------------------------


@dataclass
class Busy:
    """Files that somebody has open: Windows does not delete them."""

    files: set[Path] = field(default_factory=set)

    def unlink(self, really: Callable[..., None]) -> Callable[..., None]:
        def unlink(file: Path, missing_ok: bool = False) -> None:
            if file in self.files:
                raise PermissionError(13, "The process cannot access the file")
            really(file, missing_ok=missing_ok)

        return unlink


async def content_of(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


def test_what_cannot_be_deleted_yet_is_deleted_after_the_last_reader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    busy = Busy()
    monkeypatch.setattr(Path, "unlink", busy.unlink(Path.unlink))

    async def scenario() -> None:
        store = ImageStore(tmp_path / "images", lambda: datetime.now(timezone.utc))
        image = await store.publish("a.fw", content_of(b"old"))
        with store.reading(image.token, "a.fw") as (old, stream):
            busy.files.add(old.file)
            await store.replace(image.token, "a.fw", content_of(b"new"))
            assert stream.read() == b"old"
            await store.delete(image.token, "a.fw")
            assert old.file.exists()
            busy.files.clear()
        assert list((tmp_path / "images").iterdir()) == []
        store.close()

    asyncio.run(scenario())


def test_replacements_at_once_leave_one_whole_image(tmp_path: Path) -> None:
    async def scenario() -> None:
        store = ImageStore(tmp_path / "images", lambda: datetime.now(timezone.utc))
        image = await store.publish("a.fw", content_of(b"first"))
        # Two of them with the same content, so with the same ETag.
        contents = [b"second", b"third", b"second"]
        replaced: list[Image] = await asyncio.gather(
            *(store.replace(image.token, "a.fw", content_of(content)) for content in contents)
        )
        with store.reading(image.token, "a.fw") as (now, stream):
            assert stream.read() in contents
        assert now in replaced
        assert list((tmp_path / "images" / image.token).iterdir()) == [now.file]
        store.close()

    asyncio.run(scenario())


def test_an_image_that_is_deleted_while_its_successor_arrives_stays_deleted(
    tmp_path: Path,
) -> None:
    async def scenario() -> None:
        store = ImageStore(tmp_path / "images", lambda: datetime.now(timezone.utc))
        image = await store.publish("a.fw", content_of(b"old"))

        async def content() -> AsyncIterator[bytes]:
            yield b"new"
            await store.delete(image.token, "a.fw")

        with pytest.raises(HubError) as refused:
            await store.replace(image.token, "a.fw", content())
        assert refused.value.status == 404
        assert list((tmp_path / "images").iterdir()) == []
        store.close()

    asyncio.run(scenario())


def test_a_disk_that_takes_no_more_is_said_without_the_token(tmp_path: Path) -> None:
    async def scenario() -> None:
        store = ImageStore(tmp_path / "images", lambda: datetime.now(timezone.utc))
        image = await store.publish("a.fw", content_of(b"old"))

        async def content() -> AsyncIterator[bytes]:
            yield b"new"
            image.file.unlink()
            image.file.parent.rmdir()
            image.file.parent.touch()  # so that nothing can be moved there

        with pytest.raises(HubError) as failed:
            await store.replace(image.token, "a.fw", content())
        assert failed.value.status == 500
        assert "Make room" in failed.value.message
        assert image.token not in failed.value.message
        assert failed.value.__context__ is None and failed.value.__cause__ is None
        store.close()

    asyncio.run(scenario())


def test_foreign_and_damaged_files_are_no_images(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    for name in ("token/hub.db", "token/1.abc.a.fw", "other/x/1.a.b", ".upload-1"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")

    async def scenario() -> None:
        store = ImageStore(folder, lambda: datetime.now(timezone.utc))
        with pytest.raises(HubError), store.reading("token", "hub.db"):
            pass
        store.close()

    asyncio.run(scenario())
    assert list(folder.iterdir()) == []
