"""Runs that notebook 05 keeps: one for each kind of hub, private, and no more than a timeline."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest
from azure.iot.hub.models import Twin, TwinProperties

from fwupdate_helpers.errors import FirmwareUpdateError
from fwupdate_helpers.hub import Hub
from fwupdate_helpers.kept_runs import keep_run, kept_runs
from fwupdate_helpers.localhub.statedir import StateDir

LOCAL = Hub(
    kind="local",
    connection_string="HostName=127.0.0.1:1;SharedAccessKeyName=iothubowner;SharedAccessKey=a2V5",
)
AZURE = Hub(
    kind="azure",
    connection_string="HostName=a.azure-devices.net;SharedAccessKeyName=fw;SharedAccessKey=a2V5",
)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give each test a state folder of its own, which no hub has used yet."""
    monkeypatch.setenv("FWUPDATE_STATE_DIR", str(tmp_path / "state"))
    return tmp_path / "state"


def twin(update_id: str, **more: Any) -> Twin:
    stages = {"waiting": {"startedAt": "2026-05-04T12:30:00Z", "endedAt": "2026-05-04T12:30:02Z"}}
    update = {"updateId": update_id, "outcome": "completed", "stages": stages}
    reported = {"firmwareStatus": "completed", "firmwareUpdate": update, **more}
    return Twin(device_id="pump", properties=TwinProperties(reported=reported))


def test_nothing_is_kept_at_first() -> None:
    assert kept_runs() == {}


def test_each_kind_of_hub_has_its_last_run_and_the_local_one_comes_first() -> None:
    keep_run(AZURE, twin("there"), answer_seconds=0.2)
    keep_run(LOCAL, twin("first"), answer_seconds=0.1)
    keep_run(LOCAL, twin("second"), answer_seconds=0.01)
    runs = kept_runs()
    assert list(runs) == ["local hub", "Azure"]
    assert [run.timeline.update_id for run in runs.values()] == ["second", "there"]
    assert [run.numbers["answer_seconds"] for run in runs.values()] == [0.01, 0.2]
    assert runs["Azure"].timeline.seconds == 2.0


def test_a_number_that_is_not_measured_again_stays() -> None:
    keep_run(LOCAL, twin("first"), answer_seconds=0.1, **{"report, F1": 7})
    keep_run(LOCAL, twin("second"), answer_seconds=0.2)
    assert kept_runs()["local hub"].numbers == {"answer_seconds": 0.2, "report, F1": 7}


def test_nothing_is_kept_of_a_twin_but_its_timeline(folder: Path) -> None:
    keep_run(LOCAL, twin("first", wifi="secret"), answer_seconds=0.1)
    (file,) = (folder / "runs").iterdir()
    assert "secret" not in file.read_text("utf-8") and "first" in file.read_text("utf-8")


@pytest.mark.skipif(os.name != "posix", reason="Windows keeps the folder private by other means")
def test_the_file_is_its_users_alone(folder: Path) -> None:
    keep_run(LOCAL, twin("first"))
    (file,) = (folder / "runs").iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_local_hub_can_still_be_prepared_where_only_azure_was_used(folder: Path) -> None:
    keep_run(AZURE, twin("there"))
    StateDir(folder).prepare()
    assert list(kept_runs()) == ["Azure"]


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"twin": 3, "numbers": {}}', '{"twin": {"reported": {}}}']
)
def test_a_damaged_file_is_as_good_as_none_and_is_written_anew(folder: Path, content: str) -> None:
    keep_run(LOCAL, twin("first"))
    (file,) = (folder / "runs").iterdir()
    file.write_text(content, "utf-8")
    assert kept_runs() == {}
    keep_run(LOCAL, twin("second"))
    assert kept_runs()["local hub"].timeline.update_id == "second"


def test_a_twin_without_an_update_is_refused_and_leaves_the_last_run() -> None:
    keep_run(LOCAL, twin("first"))
    with pytest.raises(FirmwareUpdateError, match="tells of no update"):
        keep_run(LOCAL, Twin(device_id="pump", properties=TwinProperties(reported={})))
    assert kept_runs()["local hub"].timeline.update_id == "first"


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, folder: Path) -> None:
    folder.write_text("a file stands here", "utf-8")
    with pytest.raises(FirmwareUpdateError, match="cannot be kept in"):
        keep_run(LOCAL, twin("first"))
