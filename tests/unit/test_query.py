"""The query language: what each query answers, on a fleet that has every kind of value."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fwupdate_helpers.localhub import query
from fwupdate_helpers.localhub.database import Database
from fwupdate_helpers.localhub.errors import HubError
from fwupdate_helpers.localhub.identities import twin_json
from fwupdate_helpers.localhub.store import Store
from tests.query_fleet import CONFIGURATIONS, NEVER, make_database

Json = dict[str, Any]
ALL = "d1 d2 d3 d4 d5 d6 d7"


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    database = make_database(tmp_path_factory.mktemp("query") / "hub.db")
    yield database
    database.close()


CONDITIONS = [
    # -- paths: tags, properties, roots ---------------------------------------------------------
    ("tags.site = 'A'", "d1 d2"),
    ("tags.site='A'", "d1 d2"),
    ('tags.site = "A"', "d1 d2"),
    ("'A' = tags.site", "d1 d2"),
    ("devices.tags.site = 'A'", "d1 d2"),
    ("TAGS.site = 'A'", "d1 d2"),
    ("tags.Site = 'A'", ""),
    ("tags.site.name = 'A'", "d7"),
    ("tags.location.region = 'US'", "d5 d7"),
    ("tags.location.region.deeper = 'US'", ""),
    ("properties.desired.fw.version = '2.0'", "d1 d2"),
    ("properties.reported.fw.version = '2.0'", "d1"),
    ("Properties.Reported.fw.version = '2.0'", "d1"),
    ("properties.reported.fw.version != properties.desired.fw.version", "d2"),
    ("properties.reported.fw.version = properties.desired.fw.version", "d1"),
    ("properties.desired.$version = 2", "d1 d2 d3 d4 d5 d7"),
    ("properties.reported.$version > 1", "d1 d2 d3 d4 d5 d7"),
    ("properties.desired.$metadata.fw.$lastUpdatedVersion = 2", "d1 d2"),
    ("properties.desired.$metadata.fw.version.$lastUpdated >= '2026-05-04'", "d1 d2"),
    ("properties.reported.$metadata.battery.$lastUpdated < '2026-05-04T12:00:06'", "d1 d2"),
    ("properties.reported.$version.more = 1", ""),
    ("capabilities.iotEdge = true", "d5"),
    ("capabilities.iotedge = true", "d5"),
    ("capabilities.iotEdge = false", "d1 d2 d3 d4 d6 d7"),
    ("deviceId = 'd3'", "d3"),
    ("DEVICEID = 'd3'", "d3"),
    ("deviceId IN ['d3', 'd5', 'nobody']", "d3 d5"),
    ("deviceId.more = 'd3'", ""),
    ("status = 'disabled'", "d4"),
    ("statusReason = 'broken'", "d4"),
    ("connectionState = 'Connected'", "d1"),
    ("connectionstate != 'Connected'", "d2 d3 d4 d5 d6 d7"),
    (f"lastActivityTime > '{NEVER}'", "d1"),
    ("lastActivityTime < '2020-01-01'", "d2 d3 d4 d5 d6 d7"),
    ("authenticationType = 'selfSigned'", "d5"),
    (f"x509Thumbprint.primaryThumbprint = '{'AB' * 20}'", "d5"),
    ("x509Thumbprint.primaryThumbprint = null", "d1 d2 d3 d4 d6 d7"),
    ("etag = 'AAAAAAAAAAE='", "d6"),
    ("version = 2", "d1 d2 d3 d4 d5 d7"),
    ("modelId = ''", ALL),
    ("cloudToDeviceMessageCount = 0", ALL),
    ("deviceScope = 'x' OR IS_DEFINED(parentScopes) OR IS_DEFINED(moduleId)", ""),
    # -- escaped names --------------------------------------------------------------------------
    ("tags.[[group]] = 'red'", "d1"),
    ("tags.[[my-tag]] = 'm'", "d1"),
    ("[[tags]].[[site]] = 'A'", "d1 d2"),
    ("tags.count = 3", "d7"),
    ("configurations.[[cfg-1]].status = 'Applied'", "d1 d3"),
    ("configurations.[[cfg-2]].status = 'Targeted'", "d3"),
    ("configurations.[[cfg-3]].status = 'Applied'", ""),
    ("IS_DEFINED(configurations)", "d1 d3"),
    ('tags.[[qu"ote]].[[in\\side]].x = 7', "d7"),
    ('IS_DEFINED(tags.[[qu"ote]])', "d7"),
    ('IS_DEFINED(tags.[[qu"ote]].other)', ""),
    ('tags.site.[["]] = 1', ""),
    ("tags.[[site.name]] = 'A'", ""),
    ("tags.[[x'] OR 1=1 --]] = 1", ""),
    # -- kinds ----------------------------------------------------------------------------------
    ("tags.floor = 2", "d2"),
    ("tags.floor = '2'", "d3"),
    ("tags.floor != 2", "d1 d5"),
    ("tags.floor <> 2", "d1 d5"),
    ("tags.floor != '2'", ""),
    ("NOT tags.floor = 2", "d1 d3 d4 d5 d6 d7"),
    ("properties.reported.battery = 90", "d1"),
    ("properties.reported.battery = 90.0", "d1"),
    ("properties.reported.battery = 0x5A", "d1"),
    ("properties.reported.battery = 9e1", "d1"),
    ("properties.reported.battery = '90'", "d3"),
    ("properties.reported.battery > 15", "d1 d2 d4"),
    ("properties.reported.battery >= 15.5", "d1 d2 d4"),
    ("properties.reported.battery < 40", "d4"),
    ("properties.reported.battery <= 40", "d2 d4"),
    ("properties.reported.battery < 'a'", "d3"),
    ("properties.reported.battery = properties.reported.limit", "d4"),
    ("tags.floor = properties.reported.battery", ""),
    ("tags.active = true", "d1"),
    ("tags.active = TRUE", "d1"),
    ("tags.active = 'true'", "d3"),
    ("tags.active = 1", ""),
    ("tags.active != true", "d2"),
    ("tags.active < true", "d2"),
    ("tags.active = properties.reported.online", "d1"),
    ("tags.location = 'US'", ""),
    ("tags.location = tags.location", ""),
    ("properties.reported.list = [1, 2]", ""),
    ("properties.reported.list IN [1]", ""),
    ("tags = 1", ""),
    ("tags.nothing = null", "d6"),
    ("null = tags.nothing", "d6"),
    ("tags.nothing != null", ""),
    ("tags.site != null", ""),
    ("tags.nothing <= null", ""),
    ("NOT tags.nothing = null", "d1 d2 d3 d4 d5 d7"),
    ("tags.nothing = tags.nothing", "d6"),
    ("tags.missing = undefined", ""),
    ("tags.site = undefined", ""),
    ("undefined = undefined", ""),
    ("null = null", ALL),
    ("1 = 1.0", ALL),
    ("1 = '1'", ""),
    ("'a' < 'b'", ALL),
    # -- what is not true is false --------------------------------------------------------------
    ("tags.active", "d1"),
    ("NOT tags.active", "d2 d3 d4 d5 d6 d7"),
    ("tags.site", ""),
    ("true", ALL),
    ("false", ""),
    ("null", ""),
    ("undefined", ""),
    ("1", ""),
    ("'true'", ""),
    ("[1]", ""),
    ("NOT 'true'", ALL),
    ("1 + 1", ""),
    ("tags.site = 'A' AND 1", ""),
    ("(tags.site = 'A') = true", "d1 d2"),
    ("(tags.site = 'A') = tags.active", "d1"),
    ("(tags.site = 'A') != (tags.floor = 2)", "d1"),
    # -- AND, OR, NOT ---------------------------------------------------------------------------
    ("tags.site = 'A' AND tags.floor = 1", "d1"),
    ("tags.site = 'A' and not tags.floor = 1", "d2"),
    ("tags.site = 'C' OR tags.floor = 1", "d1 d5"),
    ("tags.site = 'A' OR tags.site = 'B' AND tags.model = 'X1'", "d1 d2 d3"),
    ("(tags.site = 'A' OR tags.site = 'B') AND tags.model = 'X1'", "d1 d3"),
    ("NOT tags.site = 'A' AND tags.model = 'X1'", "d3"),
    ("NOT (tags.site = 'A' AND tags.model = 'X1')", "d2 d3 d4 d5 d6 d7"),
    ("NOT NOT tags.site = 'A'", "d1 d2"),
    ("((((tags.site = 'A'))))", "d1 d2"),
    ("tags.site\n=\t'A'\r\nAND tags.floor=1", "d1"),
    # -- IN, NIN --------------------------------------------------------------------------------
    ("tags.site IN ['A', 'C']", "d1 d2 d5"),
    ("properties.reported.connectivity IN ['wired', 'wifi']", "d1 d2"),
    ("tags.floor IN [1, '2']", "d1 d3"),
    ("tags.floor IN [-1, 0x2, 3.5]", "d2 d5"),
    ("tags.active IN [true, 1]", "d1"),
    ("tags.nothing IN [null]", "d6"),
    ("tags.nothing IN [1]", ""),
    ("tags.missing IN [undefined, null]", ""),
    ("tags.site IN []", ""),
    ("NOT tags.site IN ['A']", "d3 d4 d5 d6 d7"),
    ("tags.site NIN ['A', 'C']", "d3 d4"),
    ("tags.site nin ['A']", "d3 d4 d5"),
    ("tags.floor NIN [1, 2]", "d3 d5"),
    ("tags.floor NIN ['2']", "d1 d2 d5"),
    ("tags.floor NIN []", "d1 d2 d3 d5"),
    ("tags.nothing NIN [1]", "d6"),
    ("tags.nothing NIN [null]", ""),
    ("tags.missing NIN [1]", ""),
    ("2 IN [1, 2]", ALL),
    # -- arithmetic -----------------------------------------------------------------------------
    ("tags.floor + 1 = 3", "d2"),
    ("tags.floor - 1 = 0", "d1"),
    ("tags.floor * 2 = 4", "d2"),
    ("tags.floor / 2 = 0.5", "d1"),
    ("properties.reported.battery % 25 = 15", "d1 d2"),
    ("properties.reported.battery % 2 = 1.5", "d4"),
    ("tags.floor % 2 = -1", "d5"),
    ("tags.floor / 0 = 1 OR tags.floor / 0 != 1", ""),
    ("tags.floor % 0 = 0 OR tags.floor % 0 != 0", ""),
    ("tags.site + 1 = 1 OR tags.site + 1 != 1", ""),
    ("-tags.floor = 1", "d5"),
    ("- -tags.floor = 1", "d1"),
    ("-(tags.floor + 1) = -3", "d2"),
    ("1 + 2 * 3 = 7", ALL),
    ("(1 + 2) * 3 = 9", ALL),
    ("10 - 4 - 3 = 3", ALL),
    ("100 / 10 / 5 = 2", ALL),
    ("17 % 10 % 4 = 3", ALL),
    ("2 * 7 % 4 / 2 = 1", ALL),
    ("7 / 2 = 3.5", ALL),
    ("tags.floor + properties.reported.ratio > 1.4 + 0.05", "d1 d2"),
    ("tags.missing + 1 = 1", ""),
    # -- functions ------------------------------------------------------------------------------
    ("IS_DEFINED(tags.floor)", "d1 d2 d3 d5"),
    ("is_defined(properties.reported.connectivity)", "d1 d2 d3"),
    ("NOT IS_DEFINED(tags.site)", "d6"),
    ("IS_DEFINED(tags.nothing)", "d6"),
    ("IS_DEFINED(tags.location)", "d5 d7"),
    ("IS_DEFINED(properties.reported.list)", "d1"),
    ("IS_DEFINED(statusReason)", "d4"),
    ("IS_DEFINED(tags) AND IS_DEFINED(properties.desired) AND IS_DEFINED(deviceId)", ALL),
    ("IS_DEFINED(tags.floor) = tags.active", "d1"),
    ("STARTSWITH(tags.model, 'X1')", "d1 d3 d4"),
    ("startswith(deviceId, 'd')", ALL),
    ("STARTSWITH (tags.model, 'x1')", ""),
    ("STARTSWITH(tags.model, '')", "d1 d2 d3 d4"),
    ("STARTSWITH(tags.floor, '2')", "d3"),
    ("NOT STARTSWITH(tags.model, 'X1')", "d2 d5 d6 d7"),
    ("STARTSWITH('X10-rev', tags.model)", "d1 d3 d4"),
    # -- texts ----------------------------------------------------------------------------------
    (r"tags.note = 'it\'s'", "d1"),
    ('tags.note = "it\'s"', "d1"),
    (r"tags.word = 'na\u00efve \uD83D\ude00'", "d1"),
    ("tags.word = 'naïve 😀'", "d1"),
    (r"'\\' = '\u005c' AND '\"' = '\u0022'", ALL),
    (r"tags.site = 'A\' OR 1=1'", ""),
    ("tags.site = ''", ""),
    ("tags.site = '; DROP TABLE devices --'", ""),
]
"""What may stand behind WHERE, and the devices for which it holds."""


@pytest.mark.parametrize(("condition", "devices"), CONDITIONS)
def test_a_condition_holds_for_these_devices(fleet: Database, condition: str, devices: str) -> None:
    assert query.device_ids(fleet, condition) == devices.split()
    query.check_condition(condition)


@pytest.mark.parametrize(("condition", "devices"), CONDITIONS[::7])
def test_a_query_finds_what_its_condition_finds(
    fleet: Database, condition: str, devices: str
) -> None:
    page = query.run(fleet, f"SELECT deviceId FROM devices WHERE {condition}")

    assert [row["deviceId"] for row in page.items] == devices.split()
    assert (page.item_type, page.continuation) == ("raw", None)


def test_a_star_holds_for_every_device(fleet: Database) -> None:
    query.check_condition(" * ")
    assert query.device_ids(fleet, "*") == ALL.split()


ROWS = [
    # -- columns --------------------------------------------------------------------------------
    (
        "SELECT deviceId FROM devices WHERE tags.site = 'A'",
        [{"deviceId": "d1"}, {"deviceId": "d2"}],
    ),
    (
        "select deviceId from devices where configurations.[[cfg-1]].status = 'Applied'",
        [{"deviceId": "d1"}, {"deviceId": "d3"}],
    ),
    ("SELECT DEVICEID FROM DEVICES WHERE DEVICEID = 'd1'", [{"deviceId": "d1"}]),
    ("SELECT deviceId AS id FROM devices WHERE deviceId = 'd1'", [{"id": "d1"}]),
    ("SELECT deviceId AS [[an id]] FROM devices WHERE deviceId = 'd1'", [{"an id": "d1"}]),
    ("SELECT devices.deviceId FROM devices WHERE deviceId = 'd1'", [{"deviceId": "d1"}]),
    (
        "SELECT LastActivityTime FROM devices WHERE status = 'disabled'",
        [{"lastActivityTime": NEVER}],
    ),
    (
        "SELECT deviceId, tags.site, tags.floor FROM devices WHERE deviceId IN ['d2', 'd3', 'd4']",
        [
            {"deviceId": "d2", "site": "A", "floor": 2},
            {"deviceId": "d3", "site": "B", "floor": "2"},
            {"deviceId": "d4", "site": "B"},
        ],
    ),
    (
        "SELECT tags.active, properties.reported.list, tags.nothing, version FROM devices "
        "WHERE deviceId IN ['d1', 'd2', 'd6']",
        [
            {"active": True, "list": [1, 2], "version": 2},
            {"active": False, "version": 2},
            {"nothing": None, "version": 1},
        ],
    ),
    (
        "SELECT tags, properties.desired FROM devices WHERE deviceId = 'd6'",
        [
            {
                "tags": {"nothing": None},
                "desired": {
                    "$metadata": {"$lastUpdated": "2026-05-04T12:00:15.0000000Z",
                                  "$lastUpdatedVersion": 1},
                    "$version": 1,
                },
            }
        ],
    ),
    (
        "SELECT properties.reported.$version AS n, properties.reported.ratio FROM devices "
        "WHERE deviceId IN ['d1', 'd2']",
        [{"n": 2, "ratio": 0.5}, {"n": 2, "ratio": 1.5}],
    ),
    (
        "SELECT configurations, statusReason, capabilities FROM devices WHERE deviceId = 'd4'",
        [{"statusReason": "broken", "capabilities": {"iotEdge": False}}],
    ),
    (
        "SELECT configurations FROM devices WHERE deviceId = 'd3'",
        [{"configurations": CONFIGURATIONS["d3"]}],
    ),
    (
        "SELECT x509Thumbprint, authenticationType FROM devices WHERE deviceId = 'd1'",
        [
            {
                "x509Thumbprint": {"primaryThumbprint": None, "secondaryThumbprint": None},
                "authenticationType": "sas",
            }
        ],
    ),
    ("SELECT deviceId FROM devices WHERE tags.site = 'nowhere'", []),
    # -- TOP ------------------------------------------------------------------------------------
    ("SELECT TOP 2 deviceId FROM devices", [{"deviceId": "d1"}, {"deviceId": "d2"}]),
    ("SELECT top 1 deviceId FROM devices WHERE tags.site = 'B'", [{"deviceId": "d3"}]),
    ("SELECT TOP 100 deviceId FROM devices WHERE tags.site = 'C'", [{"deviceId": "d5"}]),
    # -- aggregates -----------------------------------------------------------------------------
    ("SELECT COUNT() AS numberOfDevices FROM devices", [{"numberOfDevices": 7}]),
    ("SELECT COUNT() FROM devices WHERE tags.site = 'A'", [{"$1": 2}]),
    ("SELECT count ( ) AS n FROM devices", [{"n": 7}]),
    (
        "SELECT AVG(properties.reported.battery) AS a, SUM(properties.reported.battery) AS s, "
        "MIN(properties.reported.battery) AS l, MAX(properties.reported.battery) AS h FROM devices",
        [{"a": 48.5, "s": 145.5, "l": 15.5, "h": 90}],
    ),
    ("SELECT SUM(tags.floor) AS s, COUNT() AS n FROM devices", [{"s": 2, "n": 7}]),
    (
        "SELECT MAX(properties.reported.fw.lastUpdate) AS last FROM devices",
        [{"last": "2026-05-01T10:00:00Z"}],
    ),
    ("SELECT MIN(tags.model), MAX(tags.model) FROM devices", [{"$1": "X1", "$2": "X2"}]),
    ("SELECT MIN(tags.location), AVG(tags.site) AS a FROM devices", [{}]),
    ("SELECT TOP 1 COUNT() AS n FROM devices", [{"n": 7}]),
    (
        "SELECT COUNT() AS n, SUM(tags.floor) AS s, AVG(tags.floor) AS a, MAX(tags.floor) AS m "
        "FROM devices WHERE tags.site = 'nowhere'",
        [{"n": 0, "s": 0}],
    ),
    # -- GROUP BY -------------------------------------------------------------------------------
    (
        "SELECT properties.reported.telemetryConfig.status AS status, "
        "COUNT() AS numberOfDevices FROM devices "
        "GROUP BY properties.reported.telemetryConfig.status",
        [
            {"numberOfDevices": 5},
            {"status": "Failure", "numberOfDevices": 1},
            {"status": "Success", "numberOfDevices": 1},
        ],
    ),
    (
        "SELECT COUNT() AS numberOfDevices, properties.reported.fw.status AS status FROM devices "
        "WHERE IS_DEFINED(properties.reported.fw) GROUP BY properties.reported.fw.status",
        [
            {"numberOfDevices": 2, "status": "Current"},
            {"numberOfDevices": 1, "status": "Downloading"},
        ],
    ),
    (
        "SELECT tags.floor, COUNT() AS n FROM devices WHERE IS_DEFINED(tags.floor) "
        "GROUP BY tags.floor",
        [
            {"floor": -1, "n": 1},
            {"floor": 1, "n": 1},
            {"floor": 2, "n": 1},
            {"floor": "2", "n": 1},
        ],
    ),
    (
        "SELECT tags.active, COUNT() AS n FROM devices GROUP BY tags.active",
        [{"n": 4}, {"active": False, "n": 1}, {"active": True, "n": 1}, {"active": "true", "n": 1}],
    ),
    (
        "SELECT tags.site, tags.model, COUNT() AS n FROM devices WHERE tags.site IN ['A', 'B'] "
        "GROUP BY tags.site, tags.model",
        [
            {"site": "A", "model": "X1", "n": 1},
            {"site": "A", "model": "X2", "n": 1},
            {"site": "B", "model": "X1", "n": 1},
            {"site": "B", "model": "X10", "n": 1},
        ],
    ),
    (
        "SELECT COUNT() AS n FROM devices WHERE IS_DEFINED(tags.model) GROUP BY tags.model",
        [{"n": 2}, {"n": 1}, {"n": 1}],
    ),
    (
        "SELECT connectionState FROM devices GROUP BY connectionState",
        [{"connectionState": "Connected"}, {"connectionState": "Disconnected"}],
    ),
    (
        "SELECT TOP 1 status, COUNT() AS n FROM devices GROUP BY status",
        [{"status": "disabled", "n": 1}],
    ),
    ("SELECT status, COUNT() AS n FROM devices WHERE false GROUP BY status", []),
    (
        "SELECT tags.location, COUNT() AS n FROM devices WHERE tags.location.region = 'US' "
        "GROUP BY tags.location",
        [
            {"location": {"region": "US", "plant": "Plant 2"}, "n": 1},
            {"location": {"region": "US", "plant": "Redmond43"}, "n": 1},
        ],
    ),
]  # fmt: skip
"""Queries on devices, and the rows of their answers."""


@pytest.mark.parametrize(("text", "rows"), ROWS)
def test_a_query_answers_these_rows(fleet: Database, text: str, rows: list[Json]) -> None:
    page = query.run(fleet, text)

    assert json.dumps(page.items) == json.dumps(rows)  # for Python True == 1 == 1.0
    assert (page.item_type, page.continuation) == ("raw", None)


def test_select_all_answers_whole_twins(fleet: Database) -> None:
    page = query.run(fleet, "SELECT * FROM devices WHERE tags.location.region = 'US'")

    store = Store(fleet)
    assert page.items == [twin_json(store.get(one), store.twin(one)) for one in ("d5", "d7")]
    assert page.item_type == "twin"


def test_a_twin_shows_its_configurations_when_it_has_some(fleet: Database) -> None:
    with_some, without = query.run(fleet, "SELECT * FROM devices WHERE tags.site = 'A'").items

    assert with_some["configurations"] == CONFIGURATIONS["d1"]
    assert "configurations" not in without


def test_no_key_of_a_device_can_be_asked_for(fleet: Database) -> None:
    for path in ("authentication", "symmetricKey", "generationId", "device_id", "telemetry_count"):
        with pytest.raises(query.QuerySyntaxError, match=f"no '{path}' at its root"):
            query.run(fleet, f"SELECT {path} FROM devices")
    everything = query.run(fleet, "SELECT * FROM devices").items
    assert "not to be seen" not in json.dumps(everything)


# -- jobs ---------------------------------------------------------------------------------------

JOB_CONDITIONS = [
    ("true", "job-1/d1 job-1/d2 job-2/d1 job-2/d3"),
    ("devices.jobs.jobId = 'job-1'", "job-1/d1 job-1/d2"),
    ("jobId = 'job-1' AND status = 'failed'", "job-1/d2"),
    ("devices.jobs.deviceId = 'd1'", "job-1/d1 job-2/d1"),
    ("deviceid = 'd1'", "job-1/d1 job-2/d1"),
    ("jobType = 'scheduleUpdateTwin' AND status = 'completed'", "job-2/d1"),
    ("devices.jobs.createdTimeUtc > '2026-05-02'", "job-2/d1 job-2/d3"),
    ("createdDateTimeUtc < '2026-05-02'", "job-1/d1 job-1/d2"),
    ("NOT IS_DEFINED(endTimeUtc)", "job-2/d3"),
    ("IS_DEFINED(startTimeUtc)", "job-1/d1 job-1/d2 job-2/d1"),
    ("lastUpdatedDateTimeUtc = '2026-05-04T12:00:02Z'", "job-1/d1 job-1/d2 job-2/d1 job-2/d3"),
    ("outcome.deviceMethodResponse.status = 200", "job-1/d1"),
    ("outcome.deviceMethodResponse = null", "job-2/d1"),
    ("IS_DEFINED(outcome.deviceMethodResponse)", "job-1/d1 job-2/d1"),
    ("error.code = 'JobRunPreconditionFailed'", "job-1/d2"),
    ("IS_DEFINED(error) OR outcome = 1", "job-1/d2"),
    ("jobId.more = 1", ""),
]


@pytest.mark.parametrize(("condition", "rows"), JOB_CONDITIONS)
def test_a_condition_holds_for_these_jobs(fleet: Database, condition: str, rows: str) -> None:
    page = query.run(fleet, f"SELECT * FROM devices.jobs WHERE {condition}")

    assert [f"{row['jobId']}/{row['deviceId']}" for row in page.items] == rows.split()
    assert page.item_type == "deviceJob"


def test_the_row_of_a_job_has_what_is_known(fleet: Database) -> None:
    done, _, _, waiting = query.run(fleet, "SELECT * FROM devices.jobs").items

    assert done == {
        "deviceId": "d1",
        "jobId": "job-1",
        "jobType": "scheduleDeviceMethod",
        "status": "completed",
        "startTimeUtc": "2026-05-04T12:00:01Z",
        "endTimeUtc": "2026-05-04T12:00:02Z",
        "createdDateTimeUtc": "2026-05-01T12:00:00Z",
        "lastUpdatedDateTimeUtc": "2026-05-04T12:00:02Z",
        "outcome": {"deviceMethodResponse": {"status": 200, "payload": "ok"}},
    }
    assert set(waiting) == set(done) - {"startTimeUtc", "endTimeUtc", "outcome"}


# -- pages --------------------------------------------------------------------------------------


def pages(database: Database, text: str, size: int) -> list[list[Json]]:
    """Every page of an answer."""
    found, token = [], None
    while True:
        page = query.run(database, text, page_size=size, continuation=token)
        found.append(page.items)
        token = page.continuation
        if token is None:
            return found


@pytest.mark.parametrize(
    "text",
    [
        "SELECT * FROM devices",
        "SELECT deviceId, tags.site FROM devices WHERE status = 'enabled'",
        "SELECT TOP 5 deviceId FROM devices",
        "SELECT TOP 4 * FROM devices WHERE tags.site NIN ['C']",
        "SELECT tags.model, COUNT() AS n FROM devices GROUP BY tags.model",
        "SELECT TOP 3 tags.floor, COUNT() AS n FROM devices GROUP BY tags.floor",
        "SELECT COUNT() AS n FROM devices",
        "SELECT * FROM devices.jobs",
        "SELECT TOP 3 * FROM devices.jobs",
        "SELECT deviceId FROM devices WHERE false",
    ],
)
@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_the_pages_together_are_the_answer(fleet: Database, text: str, size: int) -> None:
    whole = query.run(fleet, text).items

    parts = pages(fleet, text, size)

    assert [row for part in parts for row in part] == whole
    assert [len(part) for part in parts[:-1]] == [size] * (len(parts) - 1)
    assert parts[-1] or len(parts) == 1


def test_a_page_goes_on_behind_the_last_device_whatever_came_and_went(tmp_path: Path) -> None:
    database = make_database(tmp_path / "hub.db")
    text = "SELECT deviceId FROM devices"
    first = query.run(database, text, page_size=3)
    Store(database).delete("d2")
    Store(database).delete("d3")

    second = query.run(database, text, page_size=3, continuation=first.continuation)

    assert [row["deviceId"] for row in second.items] == ["d4", "d5", "d6"]
    database.close()


def test_a_token_belongs_to_one_text(fleet: Database) -> None:
    token = query.run(fleet, "SELECT * FROM devices", page_size=1).continuation

    with pytest.raises(HubError, match="another text") as error:
        query.run(fleet, "SELECT * FROM  devices", page_size=1, continuation=token)
    assert error.value.code == 400004


@pytest.mark.parametrize(
    "token",
    ["x", "é", "W10=", "WzEsMl0=", "bnVsbA==", "WyJhIiwtMV0=", "W1siYSJdLCAxXQ==", "A" * 5000,
     "WyJhIiwgMSwgbnVsbF0="],
)  # fmt: skip
def test_a_token_of_somebody_else_is_refused(fleet: Database, token: str) -> None:
    with pytest.raises(HubError, match="none that this hub has given") as error:
        query.run(fleet, "SELECT * FROM devices", continuation=token)
    assert error.value.code == 400004


def test_a_page_of_large_twins_ends_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fwupdate_helpers.localhub.query.running.MAX_PAGE_CHARACTERS", 2000)
    database = make_database(tmp_path / "hub.db")

    parts = pages(database, "SELECT * FROM devices", 100)

    assert [row["deviceId"] for part in parts for row in part] == ALL.split()
    assert len(parts) > 2
    database.close()


def test_the_table_has_the_queries_that_the_issue_asks_for() -> None:
    asked = {condition for condition, _ in CONDITIONS} | {text for text, _ in ROWS}
    assert len(asked) + len(JOB_CONDITIONS) >= 120
