"""The wire trace as a sequence diagram."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import datetime, timedelta, timezone
from itertools import combinations
from typing import Any

import pytest
from matplotlib.text import Text

from fwupdate_helpers import plot_sequence
from fwupdate_helpers.trace import DEVICE, HUB, ON_AZURE, SERVICE, Trace, TraceRow
from fwupdate_helpers.trace_words import has_failed, is_request, words_for

BEGAN = datetime(2026, 5, 4, 12, 30, tzinfo=timezone.utc)
RID = "9f3a5c7e9f3a5c7e"
ANSWER = f"$iothub/methods/res/200/?$rid={RID}"


def row(number: int, source: str, target: str, what: str, **more: Any) -> TraceRow:
    at = BEGAN + timedelta(milliseconds=1.5 * (number - 1))
    return TraceRow(number, at, "pump", more.pop("kind", "methods"), source, target, what, **more)


def a_call() -> Trace:
    """Return the messages of a direct method, as the local hub records them."""
    return Trace(
        [
            row(1, SERVICE, HUB, "POST /twins/pump/methods", body='{"methodName":"reboot"}'),
            row(2, HUB, DEVICE, f"PUBLISH $iothub/methods/POST/reboot/?$rid={RID}"),
            row(3, DEVICE, HUB, f"PUBLISH {ANSWER}", status=200, answers=2),
            row(4, HUB, DEVICE, "PUBACK", answers=3, is_acknowledgement=True),
            row(5, HUB, SERVICE, "OK", status=200, answers=1, body='{"status":200}'),
        ]
    )  # fmt: skip


def texts(figure: Any) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts if text.get_text()]


def test_a_call_is_told_in_words_and_as_it_was_on_the_wire() -> None:
    figure = plot_sequence(a_call())
    shown = texts(figure)
    assert shown[:5] == ["service", "hub", "device", "HTTPS", "MQTT"]
    assert shown[5:14:3] == ["call reboot", "call reboot", "answer 200"]
    assert shown[6] == "POST /twins/…/methods"
    assert shown[9] == "$iothub/methods/POST/reboot/"
    assert [text for text in shown if text.endswith("ms")] == [
        "0 ms", "1.5 ms", "3.0 ms", "4.5 ms", "6.0 ms"
    ]  # fmt: skip
    assert figure.axes[0].get_title(loc="left") == "Call reboot: 5 messages in 6.0 ms"


def test_arrows_go_from_who_sends_to_who_receives() -> None:
    place = {SERVICE: 0, HUB: 1, DEVICE: 2}
    trace = a_call()
    arrows = [text for text in plot_sequence(trace).axes[0].texts if text.get_text() == ""]
    drawn = [(arrow.xyann[0], arrow.xy[0], arrow.xy[1]) for arrow in arrows]
    assert drawn == [(place[one.source], place[one.target], n) for n, one in enumerate(trace)]
    dashed = [arrow.arrow_patch.get_linestyle() == "--" for arrow in arrows]
    assert dashed == [False, False, True, False, True], "answers, and no acknowledgement"


def test_the_alt_text_tells_the_messages_in_their_order() -> None:
    assert plot_sequence(a_call()).alt_text == (
        "Call reboot: 5 messages in 6.0 ms. service to hub: call reboot; hub to device: call "
        "reboot; device to hub: answer 200; hub to device: received; hub to service: answer 200."
    )


def test_a_failure_has_a_cross_and_its_word_and_a_request_without_an_answer_says_so() -> None:
    refused = row(3, HUB, SERVICE, "Gateway Timeout", status=504, answers=1)
    shown = texts(plot_sequence(Trace([*a_call()[:2], refused])))
    assert "✖ 504 Gateway Timeout" in shown
    assert shown.count("no answer seen") == 1, "of the device; the service was answered"


def test_an_open_end_begins_where_the_answer_is_missing() -> None:
    silent = Trace([*a_call()[:2], row(3, HUB, SERVICE, "Gateway Timeout", status=504, answers=1)])
    figure: Any = plot_sequence(silent)
    (ring,) = [line for line in figure.axes[0].lines if line.get_marker() == "o"]
    place = (float(ring.get_xdata()[0]), float(ring.get_ydata()[0]))
    assert 1.5 < place[0] < 2 and 1 < place[1] < 2, "at the device's line, under the second message"
    assert "hub to device: call reboot, no answer seen; " in figure.alt_text
    assert "504 Gateway Timeout (failed)." in figure.alt_text


def test_a_request_whose_answer_is_not_drawn_does_not_count_as_unanswered() -> None:
    filler = [row(n, DEVICE, HUB, "PUBACK", is_acknowledgement=True) for n in range(2, 31)]
    call = a_call()[0]
    late = row(31, HUB, SERVICE, "OK", status=200, answers=call.number)
    figure: Any = plot_sequence(Trace([call, *filler, late]))
    assert "no answer seen" not in " ".join([*texts(figure), figure.alt_text])
    assert "1 later message is not drawn." in figure.alt_text


LONG = "apply_update_of_a_very_long_name" + "_x" * 48  # 128 characters, the most that IoT Hub takes
HARD = (
    row(1, SERVICE, HUB, "POST /twins/pump/methods", body=json.dumps({"methodName": LONG})),
    row(2, HUB, DEVICE, f"PUBLISH $iothub/methods/POST/{LONG}/?$rid={RID}"),
    row(3, SERVICE, HUB, "POST /twins/pump/methods", body='{"methodName": "a$b$c^"}'),
    row(4, DEVICE, HUB, f"PUBLISH $iothub/twin/PATCH/properties/reported/?$rid={RID}",
        body=json.dumps({letter * 60: 1 for letter in "WMab"})),
    row(5, DEVICE, HUB, "PUBLISH $iothub/twin/PATCH/properties/reported/?$rid=1",
        body='{"two\\nlines": 1}'),
    row(6, HUB, SERVICE, "Unprocessable " * 9, status=422, answers=3),
    row(7, DEVICE, HUB, "CLOSE the device has sent nothing for one and a half keep-alive times"),
)  # fmt: skip


@pytest.mark.parametrize("first", range(len(HARD)))
def test_whatever_the_messages_hold_every_text_has_its_place(first: int) -> None:
    note = "Some messages are gone: the trace was cleared, or more came than it keeps. " * 2
    trace = Trace([*HARD[first:], *HARD[:first]], note=note)
    figure = plot_sequence(trace)
    assert_that_texts_have_their_places(figure)
    assert " ".join(figure.axes[0].texts[-1].get_text().split()) == note.strip()
    assert figure.alt_text.endswith(note)  # type: ignore[attr-defined]


def test_a_long_title_and_a_note_do_not_press_the_messages_together() -> None:
    def row_height(title: str, note: str) -> float:
        figure = plot_sequence(Trace(a_call(), note=note), title=title)
        figure.draw_without_rendering()
        (_, upper), (_, lower) = figure.axes[0].transData.transform([(0, 0), (0, 1)])
        return float(upper - lower)

    assert row_height("word " * 40, "word " * 40) > 0.97 * row_height("word", "")


def test_a_title_is_drawn_as_it_is_written_and_keeps_capitals() -> None:
    call = row(1, SERVICE, HUB, "POST /twins/pump/methods", body='{"methodName":"applyUpdate$1$"}')
    ax = plot_sequence(Trace([call])).axes[0]
    assert ax.get_title(loc="left") == "Call applyUpdate$1$: 1 message in 0.0 ms"
    assert not ax._left_title.get_parse_math()  # type: ignore[attr-defined]
    assert plot_sequence(a_call(), title="Mine").axes[0].get_title(loc="left") == "Mine"


def assert_that_texts_have_their_places(figure: Any) -> None:
    figure.draw_without_rendering()
    ax, whole = figure.axes[0], figure.bbox
    found = [text for text in (*ax.texts, ax._left_title) if text.get_text()]
    boxes = [Text.get_window_extent(text) for text in found]
    for (one, a), (other, b) in combinations(zip(found, boxes, strict=True), 2):
        assert not a.overlaps(b), (one.get_text(), other.get_text())
    for text, box in zip(found, boxes, strict=True):
        assert whole.x0 <= box.x0 and box.x1 <= whole.x1, text.get_text()
        assert whole.y0 <= box.y0 and box.y1 <= whole.y1, text.get_text()
        assert text.get_fontsize() >= 11
    (left, _), (right, _) = ax.transData.transform([(0, 0), (1, 0)])
    lines = [box for text, box in zip(found, boxes, strict=True) if text.get_ha() == "center"]
    assert lines and all(box.width < right - left for box in lines), "no text crosses a lifeline"
    assert all(line.get_linewidth() >= 1.5 for line in ax.lines if line.get_linestyle() != "None")


@pytest.mark.parametrize("number", [5, 30])
def test_no_text_lies_on_another_one_or_outside(number: int) -> None:
    long = f"PUBLISH $iothub/twin/res/204/?$rid={RID}{RID}&$version=123"
    body = json.dumps(dict.fromkeys(("temperature", "battery", "location", "speed"), 1))
    what = f"PUBLISH $iothub/twin/PATCH/properties/reported/?$rid={RID}"
    rows = [
        row(n + 1, DEVICE, HUB, what, kind="twin", body=body)
        if n % 2
        else row(n + 1, HUB, DEVICE, long, kind="twin", status=204, answers=n)
        for n in range(number)
    ]
    assert_that_texts_have_their_places(plot_sequence(Trace(rows)))


def test_of_many_messages_thirty_are_drawn_and_it_says_how_to_see_the_others() -> None:
    figure = plot_sequence(Trace([row(n, DEVICE, HUB, "PUBACK") for n in range(1, 41)]))
    note = "10 later messages are not drawn. Narrow the trace with after= or kinds="
    assert note in figure.alt_text
    assert any(note in text for text in texts(figure))


def test_an_empty_trace_is_a_figure_that_says_why() -> None:
    figure = plot_sequence(Trace(note=ON_AZURE))
    assert figure.alt_text == ON_AZURE and figure.texts[0].get_text() == ON_AZURE
    assert plot_sequence(Trace()).alt_text == "No messages passed the hub."


@pytest.mark.parametrize(
    ("what", "more", "words"),
    [
        ("CONNECT", {}, "connect"),
        ("CONNACK", {"status": 0}, "connected"),
        ("CONNACK", {"status": 5}, "refused, code 5"),
        ("SUBSCRIBE $iothub/methods/POST/#", {}, "subscribe to methods"),
        ("CLOSE the token has expired", {}, "the connection ends"),
        ("PUBLISH $iothub/twin/GET/?$rid=1", {}, "read the twin"),
        ("PUBLISH $iothub/twin/res/204/?$rid=1&$version=3", {"status": 204}, "taken, version 3"),
        ("PUBLISH $iothub/twin/res/429/?$rid=1", {"status": 429}, "refused, 429"),
        ("PUBLISH $iothub/twin/PATCH/properties/desired/?$version=2",
         {"body": '{"speed":1,"$version":2}'}, "wish speed"),
        ("PUBLISH devices/pump/messages/events/", {}, "telemetry"),
        ("GET /firmware/***/2.0.0.img", {}, "fetch the image"),
        ("PATCH /twins/pump", {"body": '{"properties":{"desired":{"speed":1}}}'},
         "change the twin speed"),
        ("PATCH /twins/pump", {"body": "(22 bytes that are no JSON)"}, "change the twin"),
        ('PATCH /twins/pump', {"body": '{"properties":5}'}, "change the twin properties"),
        ('PATCH /twins/pump', {"body": '{"properties":{"desired":null}}'},
         "change the twin properties"),
        ("POST /twins/pump/methods", {"body": '{"methodName":"two\\nlines"}'}, "call two lines"),
        ("POST /twins/pump/methods", {"body": '{"methodName":null}'}, "call a method"),
        ("POST /devices/query", {}, "ask which devices"),
        ("OPTIONS /", {}, "ask"),
    ],
)  # fmt: skip
def test_each_message_has_words(what: str, more: dict[str, Any], words: str) -> None:
    source, target = (SERVICE, HUB) if "/twins/" in what else (DEVICE, HUB)
    assert words_for(row(1, source, target, what, **more)) == words


def test_an_answer_without_content_says_only_that_it_is_done() -> None:
    deleted = row(2, HUB, SERVICE, "No Content", kind="identity", status=204, answers=1)
    assert words_for(deleted) == "done"


def test_what_asks_and_what_has_failed() -> None:
    call, sent, told, *_ = a_call()
    assert is_request(call) and is_request(sent) and not is_request(told)
    assert has_failed(row(1, HUB, SERVICE, "Not Found", status=404)) and not has_failed(told)
    assert has_failed(row(1, HUB, DEVICE, "CONNACK", status=5))
    assert not has_failed(row(1, HUB, DEVICE, "CONNACK", status=0))


def test_importing_loads_no_matplotlib_and_drawing_loads_no_pyplot() -> None:
    code = (
        "import sys; from fwupdate_helpers import plot_sequence; "
        "from fwupdate_helpers.trace import Trace; assert 'matplotlib' not in sys.modules; "
        "plot_sequence(Trace())._repr_mimebundle_(); assert 'matplotlib.figure' in sys.modules; "
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_status_without_a_name_is_drawn_as_its_number() -> None:
    answers = [
        row(n, HUB, SERVICE, "IotHubThrottled", status=n, answers=n - 1) for n in (429, 499, 999)
    ]
    shown = texts(plot_sequence(Trace(answers)))
    assert {"✖ 429 IotHubThrottled", "429 Too Many Requests", "499", "999"} <= {*shown}


def test_an_image_comes_by_https_and_a_part_of_it_tells_its_bytes() -> None:
    asked = row(1, DEVICE, HUB, "GET /firmware/***/2.0.0.img", kind="image")
    part = row(2, HUB, DEVICE, "Partial Content bytes 0-65535/1048576", kind="image", status=206,
               answers=1)  # fmt: skip
    shown = texts(plot_sequence(Trace([asked, part])))
    assert shown[4] == "MQTT, image: HTTPS"
    assert shown[-3:-1] == ["a part of the image", "206 bytes 0-65535/1048576"]
    whole = row(2, HUB, DEVICE, "OK", kind="image", status=200, answers=1)
    assert words_for(whole) == "the image"


def test_the_table_shows_markup_as_text_and_folds_a_long_body() -> None:
    body = json.dumps({"text": "<b>" + "x" * 200})
    html = Trace([row(1, DEVICE, HUB, "PUBLISH <i>", body=body)], note="<u>gone</u>")._repr_html_()
    assert not any(tag in html for tag in ("<b>", "<i>", "<u>"))
    assert "PUBLISH &lt;i&gt;" in html and "&lt;u&gt;gone&lt;/u&gt;" in html
    summary = html.partition("<summary>")[2].partition("</summary>")[0]
    assert "&lt;b&gt;" in summary and summary.count("x") < 80 and "…" in summary
    assert "x" * 200 in html, "the whole body is one click away"
