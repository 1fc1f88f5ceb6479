"""What the local hub's log and status never show."""

from __future__ import annotations

import pytest

from fwupdate_helpers.localhub import __main__ as command


@pytest.mark.parametrize(
    "secret",
    [
        "SharedAccessKey=ab/cd+ef/gh==",
        "sig=ab%2Fcd/ef",
        "SharedAccessSignature sr=h/devices/d",
        "/firmware/AbCdEf-GhIjKl_MnOpQrSt",
        "/$localhub/images/AbCdEf-GhIjKl_MnOpQrSt",
    ],
)
def test_a_secret_is_masked_to_its_end(secret: str) -> None:
    shown = command._masked(f"GET {secret} HTTP/1.1")
    assert shown.startswith("GET ")
    assert shown.endswith("*** HTTP/1.1")
    assert not any(part in shown for part in ("cd", "gh", "ef", "h/dev", "GhIjKl", "QrSt"))
