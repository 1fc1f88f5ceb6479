"""The parts of a download that do no I/O: addresses, answers, limits."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from typing import Any

import pytest

from fwupdate_helpers import contract
from fwupdate_helpers.errors import DownloadError
from fwupdate_helpers.firmware.download import DownloadPolicy, check_uri, shown, tls_context
from fwupdate_helpers.firmware.http_answers import (
    Partial,
    TemporaryProblem,
    UselessPart,
    check_probe,
    check_status,
    content_range,
    is_complete,
    partial_body,
    probe_headers,
    resume_headers,
    retry_after,
    size_in_416,
    strong_etag,
    whole_body,
)
from fwupdate_helpers.firmware.pacing import Pacer, piece_bytes
from fwupdate_helpers.firmware.uris import MAX_LENGTH, is_loopback, proxy_for, redirected
from tests.downloads import use_proxy

NOW = datetime(2026, 5, 4, 12, 30, tzinfo=timezone.utc)
HAVE = Partial(100, '"v1"')


# -- addresses ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "uri",
    [
        "https://images.example.com/edge.fw",
        "HTTPS://images.example.com/edge.fw",
        "https://acme.blob.core.windows.net/images/edge.fw?sv=2024-08-04&sig=a%2Bb%3D",
        "https://127.0.0.1:8443/edge.fw",
        "https://[::1]:8443/edge.fw",
        "https://localhost",
        "https://xn--bcher-kva.example/edge%20one.fw",
        "https://h/" + "a" * (MAX_LENGTH - 10),
    ],
)
def test_an_https_address_is_followed(uri: str) -> None:
    check_uri(uri)


@pytest.mark.parametrize(
    "uri",
    [
        "http://images.example.com/edge.fw",
        "file:///etc/passwd",
        "ftp://images.example.com/edge.fw",
        "data:text/plain,hello",
        "javascript:alert(1)",
        "images.example.com/edge.fw",
        "//images.example.com/edge.fw",
        "https:images.example.com",
        "https:///edge.fw",
        "https://:443/edge.fw",
        "https://user@images.example.com/edge.fw",
        "https://user:password@images.example.com/edge.fw",
        "https://@images.example.com/edge.fw",
        "https://images.example.com\\@evil.example/edge.fw",
        "https://images.example.com/edge one.fw",
        " https://images.example.com/edge.fw",
        "https://images.example.com/edge.fw\n",
        "https://images.example.com/\r\nHost: evil.example",
        "https://images.example.com/\x00",
        "https://images.example.com/bücher.fw",
        "https://images.example.com:99999/edge.fw",
        "https://images.example.com:0/edge.fw",
        "https://images.example.com:port/edge.fw",
        "https://[::1/edge.fw",
        "https://[fe80::1%25eth0]/edge.fw",
        "https://images%2eexample.com/edge.fw",
        "https://-/edge.fw",
        "https://images..example.com/edge.fw",
        "https://" + "a" * 64 + ".example.com/edge.fw",
        "https://" + "a." * 130 + "com/edge.fw",
        "https://h/" + "a" * MAX_LENGTH,
        "",
    ],
)
def test_any_other_address_is_refused(uri: str) -> None:
    with pytest.raises(DownloadError) as caught:
        check_uri(uri)
    assert caught.value.code == contract.CODE_URI_REFUSED
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_plain_http_has_to_be_allowed() -> None:
    check_uri("http://127.0.0.1/edge.fw", allow_http=True)
    with pytest.raises(DownloadError):
        check_uri("ftp://127.0.0.1/edge.fw", allow_http=True)


@pytest.mark.parametrize(
    ("uri", "text"),
    [
        ("https://h.example/edge.fw?sig=SECRET#SECRET", "https://h.example/edge.fw"),
        ("https://h.example/a/SECRET/edge-2.0.0.fw", "https://h.example/…/edge-2.0.0.fw"),
        ("https://u:SECRET@h.example/edge.fw", "https://h.example/edge.fw"),
        ("https://127.0.0.1:8443/edge.fw", "https://127.0.0.1:8443/edge.fw"),
        ("https://[::1]:8443/edge.fw", "https://[::1]:8443/edge.fw"),
        ("https://h.example/SECRET" + "x" * 16, "https://h.example/…"),
        ("https://h.example/eyJh.SECRETSECRET", "https://h.example/…"),
        ("https://h.example/fw/", "https://h.example/…/"),
        ("https://h.example", "https://h.example/"),
        ("file:///home/SECRET/edge.fw", "file:…/edge.fw"),
        ("data:text/plain,SECRET", "data:…"),
        ("SECRET:password@h", "…"),
        ("https://SECRET SECRET/edge.fw", "https://…/edge.fw"),
        ("https://[SECRET/edge.fw", "…"),
        ("test.com", "test.com"),
        ("SECRET with spaces", "…"),
        ("https://h.example/ed\nge.fw", "https://h.example/edge.fw"),
    ],
)
def test_what_is_shown_of_an_address_holds_no_secret(uri: str, text: str) -> None:
    assert shown(uri) == text


def test_a_redirect_may_be_relative() -> None:
    assert redirected("https://h.example/a/b", "c.fw?x=1") == "https://h.example/a/c.fw?x=1"
    assert redirected("https://h.example/a/b", "//i.example/c") == "https://i.example/c"


@pytest.mark.parametrize("allow_http", [False, True])
@pytest.mark.parametrize(
    "location",
    [None, "", "http://h.example/b", "file:///b", "https://u:p@h.example/b", "https://["],
)
def test_a_redirect_from_https_leads_to_https_only(location: str | None, allow_http: bool) -> None:
    with pytest.raises(DownloadError) as caught:
        redirected("https://h.example/a", location, allow_http=allow_http)
    assert caught.value.code == contract.CODE_URI_REFUSED


def test_a_redirect_from_http_may_lead_to_http_where_that_is_allowed() -> None:
    assert redirected("http://h.example/a", "/b", allow_http=True) == "http://h.example/b"


@pytest.mark.parametrize(
    "host",
    ["localhost", "LOCALHOST.", "a.localhost", "127.0.0.1", "127.9.8.7", "::1", "::ffff:127.0.0.1"],
)
def test_this_computer_is_never_behind_a_proxy(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    use_proxy(monkeypatch, HTTPS_PROXY="http://proxy.example:3128")
    assert is_loopback(host)
    assert proxy_for(f"https://{f'[{host}]' if ':' in host else host}:8443/edge.fw") is None


def test_other_hosts_are_behind_the_proxy_of_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    uri = "https://images.example.com/edge.fw"
    use_proxy(monkeypatch)
    assert proxy_for(uri) is None
    use_proxy(monkeypatch, HTTPS_PROXY="proxy.example:3128", NO_PROXY="other.example")
    assert proxy_for(uri) == "http://proxy.example:3128"
    use_proxy(monkeypatch, ALL_PROXY="http://proxy.example:3128")
    assert proxy_for(uri) == "http://proxy.example:3128"
    use_proxy(monkeypatch, HTTPS_PROXY="http://proxy.example:3128", NO_PROXY=".example.com")
    assert proxy_for(uri) is None


def test_a_proxy_of_another_kind_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    use_proxy(monkeypatch, HTTPS_PROXY="socks5://someone:SECRET@proxy.example:1080")
    with pytest.raises(DownloadError) as caught:
        proxy_for("https://images.example.com/edge.fw")
    assert "SECRET" not in str(caught.value)


# -- answers --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("bytes 0-0/1", (0, 1, 1)),
        ("bytes 100-199/1000", (100, 200, 1000)),
        ("Bytes  100-199/1000 ", (100, 200, 1000)),
        ("bytes 100-199/*", None),
        ("bytes */1000", None),
        ("bytes 199-100/1000", None),
        ("bytes 100-1000/1000", None),
        ("bytes=100-199/1000", None),
        ("items 100-199/1000", None),
        ("bytes -1-199/1000", None),
        ("bytes 100-199/1000, bytes 1-2/1000", None),
        ("bytes ١٠٠-199/1000", None),
        ("bytes 1-2/" + "9" * 5000, None),
        ("", None),
        (None, None),
    ],
)
def test_content_range(value: str | None, expected: tuple[int, int, int] | None) -> None:
    assert content_range(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [("bytes */1000", 1000), ("bytes */*", None), ("bytes 0-1/2", None), (None, None)],
)
def test_content_range_of_a_416(value: str | None, expected: int | None) -> None:
    assert size_in_416(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ('"0x8DC"', '"0x8DC"'),
        (' "a" ', '"a"'),
        ('""', '""'),
        ('W/"a"', None),
        ("a", None),
        ('"a', None),
        ('"a"b"', None),
        ('"a"\r\nX: y', None),
        ('"' + "a" * 300 + '"', None),
        ("", None),
        (None, None),
    ],
)
def test_only_a_strong_etag_counts(value: str | None, expected: str | None) -> None:
    assert strong_etag(value) == expected


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0),
        ("17", 17),
        (format_datetime(NOW + timedelta(seconds=90), usegmt=True), 90),
        (format_datetime(NOW - timedelta(seconds=90), usegmt=True), 0),
        ("Mon, 04 May 2026 12:31:00 -0000", 60),
        ("-5", 0),
        ("1.5", 0),
        ("soon", 0),
        ("9" * 400, 0),
        ("", 0),
        (None, 0),
    ],
)
def test_retry_after(value: str | None, seconds: float) -> None:
    assert retry_after(value, NOW) == seconds


def status_error(
    status: int, headers: dict[str, str] | None = None, *, ranged: bool = True
) -> Exception:
    with pytest.raises((DownloadError, TemporaryProblem)) as caught:
        check_status(status, headers or {}, ranged=ranged, place="the image", now=NOW)
    return caught.value


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_these_statuses_may_pass(status: int) -> None:
    error = status_error(status, {"Retry-After": "7"})
    assert isinstance(error, TemporaryProblem)
    assert error.asked_seconds == 7
    assert str(status) in str(error)


@pytest.mark.parametrize("status", [201, 204, 304, 400, 401, 403, 404, 405, 410, 451, 501, 599])
def test_these_statuses_are_for_good(status: int) -> None:
    error = status_error(status)
    assert isinstance(error, DownloadError)
    assert error.code == contract.CODE_DOWNLOAD_REFUSED
    assert str(status) in str(error)


def test_a_refusal_says_what_to_do() -> None:
    assert "signature" in str(status_error(403))
    assert "published" in str(status_error(404))


def test_a_part_that_nobody_asked_for_is_refused() -> None:
    check_status(206, {}, ranged=True, place="the image", now=NOW)
    assert isinstance(status_error(206, ranged=False), DownloadError)
    assert isinstance(status_error(416, ranged=False), DownloadError)


def test_a_compressed_answer_is_refused() -> None:
    check_status(200, {"Content-Encoding": "Identity"}, ranged=False, place="it", now=NOW)
    assert isinstance(status_error(200, {"Content-Encoding": "gzip"}), DownloadError)


def test_a_resumed_request_names_the_image_that_it_resumes() -> None:
    assert resume_headers(HAVE) == {"Range": "bytes=100-", "If-Range": '"v1"'}
    assert resume_headers(Partial(0, '"v1"')) == {}
    assert resume_headers(Partial(100, None)) == {}
    assert probe_headers(HAVE) == {"Range": "bytes=99-99", "If-Range": '"v1"'}


def test_a_fitting_part_is_taken() -> None:
    body = partial_body(HAVE, {"ETag": '"v1"', "Content-Range": "bytes 100-199/1000"}, 100)
    assert (body.start, body.stop, body.total, body.validator) == (100, 200, 1000, '"v1"')


@pytest.mark.parametrize(
    ("headers", "length", "changed"),
    [
        ({"ETag": '"v2"', "Content-Range": "bytes 100-199/1000"}, 100, True),
        ({"ETag": 'W/"v1"', "Content-Range": "bytes 100-199/1000"}, 100, False),
        ({"Content-Range": "bytes 100-199/1000"}, 100, False),
        ({"ETag": '"v1"'}, 100, False),
        ({"ETag": '"v1"', "Content-Range": "bytes 0-199/1000"}, 200, False),
        ({"ETag": '"v1"', "Content-Range": "bytes 101-199/1000"}, 99, False),
        ({"ETag": '"v1"', "Content-Range": "bytes 100-199/1000"}, 101, False),
        ({"ETag": '"v1"', "Content-Range": "bytes 100-199/1001"}, 100, True),
    ],
)
def test_a_part_that_does_not_fit_is_not_taken(
    headers: dict[str, str], length: int, changed: bool
) -> None:
    with pytest.raises(UselessPart) as caught:
        partial_body(Partial(100, '"v1"', 1000), headers, length)
    assert caught.value.changed is changed


def test_a_whole_image_in_place_of_the_rest_tells_whether_it_changed() -> None:
    assert whole_body(HAVE, '"v1"', 1000)[1] is False
    assert whole_body(HAVE, '"v2"', 1000)[1] is True
    assert whole_body(HAVE, None, 1000)[1] is False
    assert whole_body(Partial(0), '"v2"', 1000)[1] is False


def test_an_image_is_complete_when_the_server_says_so_of_the_same_one() -> None:
    assert is_complete(HAVE, {"Content-Range": "bytes */100", "ETag": '"v1"'})
    assert not is_complete(HAVE, {"Content-Range": "bytes */100"})
    assert not is_complete(HAVE, {"ETag": '"v1"'})
    for headers in ({"Content-Range": "bytes */99"}, {"ETag": '"v2"'}):
        with pytest.raises(UselessPart, match="changed"):
            is_complete(HAVE, headers)


def test_the_last_byte_tells_whether_an_image_is_complete() -> None:
    good = {"Content-Range": "bytes 99-99/100", "ETag": '"v1"'}
    check_probe(HAVE, 206, good)
    bad: list[tuple[int, dict[str, str]]] = [
        (200, good),
        (416, {"ETag": '"v1"'}),
        (206, {**good, "ETag": '"v2"'}),
        (206, {**good, "ETag": ""}),
        (206, {**good, "Content-Range": "bytes 99-99/200"}),
    ]
    for status, headers in bad:
        with pytest.raises(UselessPart):
            check_probe(HAVE, status, headers)


# -- limits ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "limit",
    [
        {"attempts": 0},
        {"total_seconds": 0},
        {"idle_seconds": -1},
        {"sync_bytes": 0},
        {"bytes_per_second": 0},
        {"size_limit": -1},
        {"first_wait": -1},
        {"redirects": -1},
        {"start_overs": -1},
    ],
)
def test_a_limit_that_allows_nothing_is_refused(limit: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(limit))):
        DownloadPolicy(**limit)


@pytest.mark.parametrize("pem", ["no certificate", "-----BEGIN CERTIFICATE-----\nAA\n", "é"])
def test_an_authority_that_cannot_be_read_is_told(pem: str) -> None:
    with pytest.raises(DownloadError, match="PEM"):
        tls_context(pem)


@pytest.mark.parametrize("rate", [10, 1_000, 50_000, 3_000_000, 100_000_000])
def test_the_progress_moves_several_times_a_second(rate: float) -> None:
    assert rate / piece_bytes(rate) >= 4


class FakeTime:
    """A clock that only sleeping moves, and that oversleeps by `late` seconds."""

    def __init__(self, late: float = 0.0) -> None:
        self.now, self._late = 1000.0, late

    def clock(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds + self._late


@pytest.mark.parametrize("late", [0.0, 0.015])
def test_the_bandwidth_is_exact_with_a_timer_that_rings_late(late: float) -> None:
    time = FakeTime(late)
    pacer = Pacer(100_000, sleep=time.sleep, clock=time.clock)

    async def take() -> None:
        for _ in range(200):
            await pacer.after(5_000)

    asyncio.run(take())
    assert time.now - 1000.0 == pytest.approx(10.0, abs=0.05)


def test_a_pause_of_the_network_is_not_made_up_for() -> None:
    time = FakeTime()
    pacer = Pacer(100_000, sleep=time.sleep, clock=time.clock)
    time.now += 60
    begin = time.now

    async def take() -> None:
        for _ in range(20):
            await pacer.after(5_000)

    asyncio.run(take())
    assert time.now - begin == pytest.approx(1.0, abs=0.06)
