"""The tests of the process pass without root's rights over file modes and ports below 1024."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import CAP_DAC_OVERRIDE, without_rights

HERE = Path(__file__).parent
RELEVANT = (
    "test_ports.py",
    "test_process.py::test_run_prints_one_json_line_and_ends_with_0_on_a_signal",
    "test_process.py::test_address_ports_keys_and_ca_outlive_a_crash",
    "test_process.py::test_start_and_stop_can_be_repeated_and_the_state_stays",
    "test_process.py::test_four_starts_at_the_same_moment_make_one_hub",
    "test_process.py::test_damaged_files_are_mended_by_a_start",
    "test_process.py::test_folders_are_0700_and_files_0600_even_with_umask_0",
    "test_process.py::test_a_folder_that_others_could_read_is_made_private",
    "test_process.py::test_a_folder_that_cannot_be_ours_gets_an_error_with_the_variable_to_set",
    "test_background.py::test_the_hub_has_no_stream_descriptor_or_parent_of_its_starter_and_outlives_it",
)
"""What rights may matter to; all of the three files pass too, and take three times as long."""


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="capabilities are Linux's")
@pytest.mark.timeout(300)
def test_the_process_tests_pass_without_the_rights_of_root() -> None:
    if not (drop := without_rights()):
        return  # those tests have just run without
    check = f"from tests.support import *; assert not has_capability({CAP_DAC_OVERRIDE})"
    subprocess.run([*drop, sys.executable, "-c", check], cwd=HERE.parents[1], check=True)

    ran = subprocess.run(
        [
            *(*drop, sys.executable, "-m", "pytest", "-q", "-n0", "-p", "no:cacheprovider"),
            *(str(HERE / test) for test in RELEVANT),
        ],
        cwd=HERE.parents[1],
        env=os.environ,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert " passed" in ran.stdout
