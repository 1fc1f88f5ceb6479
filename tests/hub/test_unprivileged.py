"""The tests of the process pass without root's rights over file modes and ports below 1024."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import CAP_DAC_OVERRIDE, CAP_NET_BIND_SERVICE, has_capability, missing_tool

HERE = Path(__file__).parent
FILES = [str(HERE / name) for name in ("test_process.py", "test_ports.py", "test_background.py")]
DROPPED = "-net_bind_service,-dac_override,-dac_read_search"
"""What root may do and others may not: for setpriv, which takes it from the bounding set."""


@pytest.mark.skipif(sys.platform != "linux", reason="capabilities are Linux's")
@pytest.mark.timeout(300)
def test_the_process_tests_pass_without_the_rights_of_root() -> None:
    if not (has_capability(CAP_DAC_OVERRIDE) or has_capability(CAP_NET_BIND_SERVICE)):
        return  # those tests have just run without
    if shutil.which("setpriv") is None:
        missing_tool("setpriv is not installed (Debian's package util-linux)")
    drop = ["setpriv", f"--bounding-set={DROPPED}", f"--inh-caps={DROPPED}"]
    check = f"from tests.support import *; assert not has_capability({CAP_DAC_OVERRIDE})"
    subprocess.run([*drop, sys.executable, "-c", check], cwd=HERE.parents[1], check=True)

    ran = subprocess.run(
        [*drop, sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *FILES],
        cwd=HERE.parents[1],
        env=os.environ,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert " passed" in ran.stdout
