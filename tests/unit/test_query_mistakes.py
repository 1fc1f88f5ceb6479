"""Queries with a mistake: the message tells where it is, what was found, expected and meant."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fwupdate_helpers.localhub import query
from fwupdate_helpers.localhub.database import Database
from fwupdate_helpers.localhub.errors import HubError
from tests.query_fleet import make_database


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    database = make_database(tmp_path_factory.mktemp("query") / "hub.db")
    yield database
    database.close()


WHERE = "SELECT * FROM devices WHERE "
MISTAKES = [
    # text, line, column, what the message says
    ("", 1, 1, "found the end, expected SELECT"),
    ("   ", 1, 1, "found the end, expected SELECT"),
    ("SELECT", 1, 7, "COUNT(), '*' or TOP"),
    ("hello", 1, 1, "found 'hello', expected SELECT"),
    ("DELETE FROM devices", 1, 1, "found 'DELETE', expected SELECT"),
    ("SELECT FROM devices", 1, 8, "found 'FROM', expected"),
    ("SELECT * WHERE tags.a = 1", 1, 10, "found 'WHERE', expected FROM"),
    ("SELECT *, deviceId FROM devices", 1, 9, "found ',', expected FROM"),
    ("SELECT deviceId, FROM devices", 1, 18, "found 'FROM', expected a name"),
    ("SELECT deviceId id FROM devices", 1, 17, "found 'id', expected AS, FROM or ','"),
    ("SELECT DISTINCT status FROM devices", 1, 17, "IoT Hub has no DISTINCT: use GROUP BY"),
    ("SELECT * FROM device", 1, 15, "FROM takes devices, devices.jobs or devices.modules"),
    ("SELECT * FROM 'devices'", 1, 15, "found ''devices'', expected a name"),
    ("SELECT * FROM devices d", 1, 23, "takes no other name here"),
    ("SELECT * FROM devices ORDER BY deviceId", 1, 23, "IoT Hub has no ORDER BY"),
    ("SELECT * FROM devices JOIN jobs", 1, 23, "IoT Hub has no JOIN"),
    ("SELECT * FROM devices LIMIT 5", 1, 23, "write SELECT TOP n"),
    ("SELECT * FROM devices;", 1, 22, "ends without a semicolon"),
    ("SELECT status FROM devices GROUP status", 1, 34, "found 'status', expected BY"),
    ("SELECT status FROM devices GROUP BY status HAVING x", 1, 44, "IoT Hub has no HAVING"),
    ("SELECT TOP * FROM devices", 1, 12, "expected a number"),
    ("SELECT TOP 0 * FROM devices", 1, 12, "TOP takes a whole number"),
    ("SELECT TOP 1.5 * FROM devices", 1, 12, "TOP takes a whole number"),
    ("SELECT COUNT(*) AS n FROM devices", 1, 14, "COUNT takes nothing between its parentheses"),
    ("SELECT COUNT(tags.a) FROM devices", 1, 8, "add WHERE IS_DEFINED(path)"),
    ("SELECT SUM() FROM devices", 1, 8, "SUM takes a path"),
    ("SELECT MEDIAN(tags.a) FROM devices", 1, 8, "IoT Hub has no function 'MEDIAN'"),
    ("SELECT tags.a + 1 FROM devices", 1, 15, "found '+', expected"),
    (WHERE, 1, 28, "found the end, expected a condition: a path"),
    (f"{WHERE}tags.site = ", 1, 40, "found the end, expected a value: a path"),
    (f"{WHERE}tags.site = A", 1, 41, "'A' in quotes for a text"),
    (f"{WHERE}site = 'A'", 1, 29, "Write tags.site, properties.desired.site or"),
    (f"{WHERE}tags.my-tag = 'm'", 1, 37, "[[so]] for a name with a '-'"),
    (f"{WHERE}tags.site == 'A'", 1, 40, "compares with a single '='"),
    (f"{WHERE}tags.site !== 'A'", 1, 41, "compares with a single '='"),
    (f"{WHERE}tags.site = 'A", 1, 41, "The text that begins here has no closing '"),
    (f"{WHERE}tags.site = \"A'", 1, 41, 'has no closing "'),
    (f"{WHERE}tags.site = 'it''s'", 1, 45, r"A quote inside a text is written \'"),
    (f"{WHERE}tags.site = ‘A’", 1, 41, "straight quotes"),
    (f"{WHERE}tags.site = 'a\\nb'", 1, 43, r"the escape \n is unknown"),
    (f"{WHERE}tags.site =\n 'a\n\\nb'", 3, 1, r"the escape \n is unknown"),
    (f"{WHERE}tags.site = '\\ud83d'", 1, 41, "half a surrogate pair"),
    (f"{WHERE}tags.group = 1", 1, 34, "'group' is a reserved word: write [[group]]"),
    (f"{WHERE}tags.5g = 1", 1, 34, "written in brackets: [[5g]]"),
    (f"{WHERE}tags. = 1", 1, 35, "found '=', expected a name"),
    (f"{WHERE}tags.[[]] = 1", 1, 34, "found '[', expected a name"),
    (f"{WHERE}tags.list[0] = 1", 1, 38, "found '[', expected"),
    (f"{WHERE}tags.[[a\u0007]] = 1", 1, 34, "control character"),
    (f"{WHERE}tags.a IN ('x', 'y')", 1, 39, "IN and NIN take a list in square brackets"),
    (f"{WHERE}tags.a IN 'x'", 1, 39, "expected a list in square brackets"),
    (f"{WHERE}tags.a IN [tags.b]", 1, 40, "found 'tags', expected"),
    (f"{WHERE}tags.a IN [1,", 1, 42, "found the end, expected a constant"),
    (f"{WHERE}tags.a NOT IN ['x']", 1, 36, "Write NIN"),
    (f"{WHERE}tags.a LIKE 'x%'", 1, 36, "IoT Hub has no LIKE: use STARTSWITH"),
    (f"{WHERE}tags.a IS NULL", 1, 36, "IoT Hub has no IS: use IS_DEFINED"),
    (f"{WHERE}tags.a BETWEEN 1 AND 2", 1, 36, "write >= … AND <="),
    (f"{WHERE}CONTAINS(tags.a, 'x')", 1, 29, "CONTAINS is for message routes"),
    (f"{WHERE}STARTS_WITH(tags.a, 'x')", 1, 29, "Write STARTSWITH, without the underscore"),
    (f"{WHERE}IS_STRING(tags.a)", 1, 29, "The functions are IS_DEFINED, STARTSWITH"),
    (f"{WHERE}IS_DEFINED(1)", 1, 40, "found '1', expected a name"),
    (f"{WHERE}STARTSWITH(tags.a)", 1, 46, "found ')', expected"),
    (f"{WHERE}AVG(tags.a) > 1", 1, 29, "AVG is for the columns"),
    (f"{WHERE}(tags.a = 1", 1, 40, "found the end, expected ')'"),
    (f"{WHERE}tags.a = 1)", 1, 39, "No '(' is open here"),
    (f"{WHERE}tags.a && tags.b", 1, 36, "Write AND"),
    (f"{WHERE}tags.a || tags.b", 1, 36, "Write OR"),
    (f"{WHERE}!tags.a", 1, 29, "Write NOT"),
    (f"{WHERE}tags.a = 1 = 2", 1, 40, "found '=', expected AND, OR"),
    (f"{WHERE}tags.a = 1e999", 1, 38, "the number is too large"),
    (f"{WHERE}tags.a = 0x{'F' * 300}", 1, 38, "the number is too large"),
    (f"{WHERE}properties.a = 1", 1, 29, "properties.desired and properties.reported"),
    ("SELECT *\nFROM devices\nWHERE tags.a == 1", 3, 15, "found '='"),
    ("SELECT *\nFROM devices\nWHERE a = 1", 3, 7, "no 'a' at its root"),
    ("SELECT tags.a, COUNT() FROM devices", 1, 8, "'tags.a' is neither in GROUP BY"),
    ("SELECT * FROM devices GROUP BY tags.a", 1, 32, "SELECT * cannot be grouped"),
    ("SELECT tags.a FROM devices GROUP BY tags.b", 1, 8, "'tags.a' is neither in GROUP BY"),
    ("SELECT tags.a, properties.desired.a FROM devices", 1, 16, "two columns are named 'a'"),
    ("SELECT tags.a AS x, COUNT() AS x FROM devices GROUP BY tags.a", 1, 21, "named 'x'"),
    ("SELECT jobId FROM devices.jobs", 1, 8, "SELECT * only FROM devices.jobs"),
    ("SELECT COUNT() FROM devices.jobs", 1, 8, "SELECT * only FROM devices.jobs"),
    ("SELECT * FROM devices.jobs WHERE tags.a = 1", 1, 34, "not on the device twin"),
    ("SELECT * FROM devices.jobs ORDER BY jobId", 1, 28, "IoT Hub has no ORDER BY"),
]


@pytest.mark.parametrize(("text", "line", "column", "says"), MISTAKES)
def test_a_mistake_is_told_with_its_place(
    fleet: Database, text: str, line: int, column: int, says: str
) -> None:
    with pytest.raises(query.QuerySyntaxError) as error:
        query.run(fleet, text)

    assert error.value.code == 400004
    assert error.value.message.startswith(
        f"The query is invalid at line {line}, column {column}: "
    ), error.value.message
    assert says in error.value.message


@pytest.mark.parametrize(
    ("condition", "column", "says"),
    [
        ("", 1, "found the end, expected a condition"),
        ("WHERE tags.a = 1", 1, "found 'WHERE'"),
        ("tags.site = A", 13, "'A' in quotes"),
        ("tags.a == 1", 9, "single '='"),
        ("* AND tags.a = 1", 1, "found '*'"),
        ("SELECT * FROM devices", 1, "found 'SELECT'"),
        ("tags.a = 1 GROUP BY tags.b", 12, "found 'GROUP'"),
    ],
)
def test_a_mistake_in_a_condition_is_told_without_a_device(
    condition: str, column: int, says: str
) -> None:
    with pytest.raises(query.QuerySyntaxError) as error:
        query.check_condition(condition)

    assert f"at line 1, column {column}: " in error.value.message
    assert says in error.value.message


def test_modules_are_said_to_be_missing(fleet: Database) -> None:
    with pytest.raises(HubError, match=r"modules \(FROM devices.modules\)") as error:
        query.run(fleet, "SELECT * FROM devices.modules WHERE properties.reported.a = 1")
    assert error.value.code == 501000


# -- limits -------------------------------------------------------------------------------------


def test_a_text_may_have_8192_characters(fleet: Database) -> None:
    text = f"{WHERE}tags.site = 'A'"
    longest = text + " " * (8192 - len(text))

    assert len(query.run(fleet, longest).items) == 2
    with pytest.raises(query.QuerySyntaxError, match="8,193 characters; 8,192 are allowed"):
        query.run(fleet, longest + " ")
    with pytest.raises(query.QuerySyntaxError, match="8,192 are allowed"):
        query.check_condition("*" + " " * 8192)


def test_a_text_no_json_can_hold_is_refused() -> None:
    with pytest.raises(query.QuerySyntaxError, match="half a surrogate pair"):
        query.parse(f"{WHERE}tags.a = '\ud800'")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("NOT " * 2000 + "true", "nests deeper than 10 levels"),
        ("tags.a = " + "-" * 5000 + "tags.b", "nests deeper than 10 levels"),
        ("(true = " * 900 + "true" + ")" * 900, "nests deeper than 10 levels"),
        ("(1+" * 2000 + "1" + ")" * 2000, "nests deeper than 10 levels"),
        ("(" * 8000, "found the end"),
        ("[" * 8000, "found '['"),
        ("tags.a = 1" + "+1" * 4000, "it calculates 4000 times; 100 are allowed"),
        (" OR ".join(["tags.a"] * 700), "it names 700 properties; 500 are allowed"),
        ("tags" + ".a" * 4000 + " = 1", "more than 24 names"),
    ],
)
def test_a_text_that_asks_for_too_much_is_refused(text: str, says: str) -> None:
    with pytest.raises(query.QuerySyntaxError) as error:
        query.check_condition(text)
    assert says in error.value.message


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("(" * 4000 + "true" + ")" * 4000, 7),
        ("OR".join(["(true)"] * 1000), 7),
        (" AND ".join(["deviceId = 'd1'"] * 400), 1),
        (f"deviceId IN [{','.join(['1'] * 3000)},'d1']", 1),
        ("tags.floor" + "+1" * 100 + " = 101", 1),
        (" OR ".join(["tags.floor=1"] * 499), 1),
    ],
)
def test_a_long_text_is_answered(fleet: Database, text: str, count: int) -> None:
    assert len(query.device_ids(fleet, text)) == count


SHAPES = {
    "remainder of the right": "(tags.a % {})",
    "remainder of the left": "({} % tags.a)",
    "sums": "(tags.a + 2 - {})",
    "minus": "-{}",
    "conditions": "(tags.a OR {})",
    "long conditions": "(" + "status OR " * 40 + "{})",
    "denials": "NOT {}",
    "comparisons": "(tags.[[\"]].a = {})",
    "lists": "({} NIN [1, 'x', true, null])",
    "prefixes": "STARTSWITH(tags.[[\"]].a, {})",
}  # fmt: skip


@pytest.mark.parametrize("innermost", ["tags.b", '1 = tags.[["]].[[\\]].a', "tags.b IN [1, 'a']"])
@pytest.mark.parametrize("shape", SHAPES)
def test_whatever_nests_as_deep_as_is_allowed_is_answered(
    fleet: Database, shape: str, innermost: str
) -> None:
    """SQLite's parser has a stack of 100 symbols; the limit on nesting keeps within it."""
    text, deeper, depth = innermost, f"({innermost})", 0
    while True:
        deeper = SHAPES[shape].replace("{}", deeper)
        try:
            query.check_condition(f"true = ({deeper})")
        except query.QuerySyntaxError as error:
            assert "nests deeper" in error.message or "are allowed" in error.message, deeper
            break
        text, depth = f"true = ({deeper})", depth + 1

    assert depth >= 4
    assert len(query.device_ids(fleet, text)) in range(8)


def test_a_query_that_takes_too_long_is_stopped(fleet: Database) -> None:
    slow = " OR ".join(["tags.site = tags.model"] * 200)
    before = query.run(fleet, "SELECT COUNT() FROM devices").items

    with pytest.raises(HubError, match="takes more than 0 s and was stopped") as error:
        query.run(fleet, f"SELECT COUNT() FROM devices WHERE {slow}", seconds=0)

    assert error.value.code == 400004
    assert query.run(fleet, "SELECT COUNT() FROM devices").items == before
