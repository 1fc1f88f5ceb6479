"""No text of a query crashes the hub, leaves its bounds, or becomes part of the SQL."""

from __future__ import annotations

import re
import sqlite3
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fwupdate_helpers.localhub import query
from fwupdate_helpers.localhub.errors import HubError
from tests.query_fleet import make_database
from tests.unit.test_query import CONDITIONS, JOB_CONDITIONS, ROWS

VALID = [
    *(text for text, _ in ROWS),
    *(f"SELECT * FROM devices WHERE {condition}" for condition, _ in CONDITIONS),
    *(f"SELECT * FROM devices.jobs WHERE {condition}" for condition, _ in JOB_CONDITIONS),
]
TOKENS = re.findall(r"\[\[.*?\]\]|'[^']*'|[\w.$]+|[<>!=]+|\S", " ".join(VALID))
SQL_WORDS = frozenset(
    re.findall(
        r"\w+",
        """
    SELECT FROM WHERE GROUP BY ORDER LIMIT OFFSET AS JOIN ON AND OR NOT IN IS NULL CASE WHEN THEN
    END CAST REAL coalesce count avg total min max instr nullif json json_object json_set
    json_extract json_type json_each query_modulo query_twin_etag
    devices device_jobs jobs device_id job_id job_type status status_reason status_updated_time
    connection_state last_activity_time authentication capabilities configurations tags desired
    desired_metadata desired_version reported reported_metadata reported_version twin_version etag
    start_time end_time created_time last_updated_time outcome error
    deviceId jobId jobType startTimeUtc endTimeUtc createdDateTimeUtc lastUpdatedDateTimeUtc
    key value type key_0 key_1
    """,
    )
)
SQL_TEXTS = frozenset(
    (
        *("''", "'integer'", "'real'", "'text'", "'true'", "'false'", "'null'", "'object'"),
        *("'array'", "'number'", "'string'", "'boolean'", "'desired'", "'reported'", "'{}'"),
        *("'$.type'", "'$.x509Thumbprint'", "'$.\"$metadata\"'", "'$.\"$version\"'"),
    )
)
SQL_TOKEN = re.compile(
    r"(?P<text>'[^']*')|(?P<mark>:p\d+)|(?P<name>[A-Za-z_]\w*)|(?P<number>\d+)|(?P<sign>\s+|\S)"
)
SQL_SIGNS = frozenset(",().=<>+-*/!")


class Recorder(sqlite3.Connection):
    """A connection that keeps the SQL which is run on it."""

    statements: list[str]

    def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
        self.statements.append(sql)
        return super().execute(sql, *parameters)


@pytest.fixture(scope="module")
def recorder(tmp_path_factory: pytest.TempPathFactory) -> Recorder:
    """The fleet in a database that can only be read."""
    source = make_database(tmp_path_factory.mktemp("query") / "hub.db")
    copy = sqlite3.connect(":memory:", factory=Recorder, isolation_level=None)
    copy.statements = []
    copy.row_factory = sqlite3.Row
    source.connection.backup(copy)
    source.close()
    copy.execute("PRAGMA query_only = ON")
    return copy


def assert_holds_no_text(sql: str) -> None:
    """Check that SQL is made of placeholders and of words that the hub itself writes."""
    for token in SQL_TOKEN.finditer(sql):
        kind, word = token.lastgroup, token[0]
        if kind == "text":
            assert word in SQL_TEXTS, sql
        elif kind == "name":
            assert word in SQL_WORDS or re.fullmatch(r"e\d{1,2}", word), sql
        elif kind == "number":
            assert int(word) <= 400, sql  # ordinals of columns
        elif kind == "sign":
            assert word.isspace() or word in SQL_SIGNS, sql


def ask(recorder: Recorder, text: str) -> None:
    """Ask a query; anything but an answer or the error of a bad query fails the test."""
    recorder.statements.clear()
    database: Any = SimpleNamespace(connection=recorder)
    try:
        page = query.run(database, text, page_size=3)
        assert len(page.items) <= 3
    except HubError as error:
        assert error.status in (400, 501), error
        assert "too complicated" not in error.message, text
    for sql in recorder.statements:
        assert_holds_no_text(sql)


@given(text=st.text(max_size=200))
@settings(max_examples=80, deadline=None, derandomize=True)
@example(text="SELECT * FROM devices WHERE tags.[[\"]] = '\x00'")
@example(text="SELECT * FROM devices WHERE tags.a\x00 = 1")
def test_any_text_is_answered_or_refused(recorder: Recorder, text: str) -> None:
    ask(recorder, text)
    ask(recorder, f"SELECT * FROM devices WHERE {text}")
    ask(recorder, f"SELECT [[{text}]] AS [[{text}]] FROM devices")
    ask(recorder, f"SELECT * FROM devices WHERE tags.[[{text}]] = '{text}'")


@given(tokens=st.lists(st.sampled_from(sorted(set(TOKENS))), max_size=25))
@settings(max_examples=400, deadline=None, derandomize=True)
def test_any_mixture_of_words_is_answered_or_refused(recorder: Recorder, tokens: list[str]) -> None:
    text = " ".join(tokens)
    ask(recorder, text)
    ask(recorder, f"SELECT * FROM devices WHERE {text}")


@st.composite
def mutated(draw: st.DrawFn) -> str:
    """A good query of which some parts were taken out, doubled, or put in from another one."""
    text = draw(st.sampled_from(VALID))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(text)))
        end = draw(st.integers(start, min(len(text), start + 20)))
        other = draw(st.sampled_from([*VALID, "'", '"', "\\", "(", ")", "[[", "]]", "\x00", "é"]))
        piece = draw(st.sampled_from(["", text[start:end] * 2, other[start : start + 20], other]))
        text = text[:start] + piece + text[end:]
    return text


@given(text=mutated())
@settings(max_examples=1000, deadline=None, derandomize=True)
def test_any_change_of_a_good_query_is_answered_or_refused(recorder: Recorder, text: str) -> None:
    ask(recorder, text)


CONSTANTS = st.sampled_from(["1", "-2.5", "0x1F", "'A'", "''", "true", "null", "undefined", "[1]"])
PATHS = st.sampled_from(
    ["tags.site", "tags.floor", "tags.[[qu\"ote]].x", "deviceId", "version", "tags", "properties",
     "properties.reported.battery", "configurations.[[cfg-1]].status", "x509Thumbprint"]
)  # fmt: skip
LISTS = st.lists(CONSTANTS.filter(lambda one: one != "[1]"), max_size=4).map(
    lambda items: f"[{', '.join(items)}]"
)
OPERATORS = st.sampled_from(["=", "!=", "<", ">=", "+", "-", "*", "/", "%", "AND", "OR"])
EXPRESSIONS = st.recursive(
    CONSTANTS | PATHS | PATHS.map("IS_DEFINED({})".format),
    lambda inner: st.one_of(
        st.tuples(inner, OPERATORS, inner).map(lambda parts: f"({' '.join(parts)})"),
        st.tuples(inner, st.sampled_from(["IN", "NIN"]), LISTS).map(
            lambda parts: f"({' '.join(parts)})"
        ),
        st.tuples(inner, inner).map(lambda parts: f"STARTSWITH({', '.join(parts)})"),
        inner.map("(NOT {})".format),
        inner.map("(-{})".format),
    ),
    max_leaves=25,
)


@given(condition=EXPRESSIONS)
@settings(max_examples=400, deadline=None, derandomize=True)
def test_any_good_condition_parts_the_devices_in_two(recorder: Recorder, condition: str) -> None:
    """What is not true is false: a condition or its denial holds for each device, never both."""
    database: Any = SimpleNamespace(connection=recorder)
    recorder.statements.clear()
    try:
        query.check_condition(f"NOT {condition}")
    except query.QuerySyntaxError as error:
        assert re.search("nests deeper|are allowed", error.message), error
        return

    holds = query.device_ids(database, condition)
    denied = query.device_ids(database, f"NOT {condition}")

    assert sorted([*holds, *denied]) == query.device_ids(database, "*")
    for sql in recorder.statements:
        assert_holds_no_text(sql)


def test_a_query_cannot_write(recorder: Recorder) -> None:
    """The other tests would not see it otherwise: what they run on lets nobody write."""
    with pytest.raises(sqlite3.DatabaseError, match="readonly"):
        recorder.execute("DELETE FROM devices")
