"""Two typical wrong answers for each exercise: what a check must not let pass."""

from __future__ import annotations

from typing import NamedTuple


class Wrong(NamedTuple):
    """A wrong answer: some words of the card, and all that stands in the exercise's cell."""

    words: str
    cell: str


WRONG_ANSWERS = {
    "00-a": [
        Wrong(
            "setUpBy is 7.",
            "set_up_by = 7\nclient.patch_twin_reported_properties({'setUpBy': set_up_by})",
        ),
        Wrong(
            "and 'Ada' here",
            "client.patch_twin_reported_properties({'setUpBy': 'Bo'})\nset_up_by = 'Ada'",
        ),
    ],
    "00-b": [
        Wrong(
            "its status is enabled",
            "second_id = hub.device_id('second')\n"
            "hub.delete_device(second_id)\n"
            "second = hub.registry.create_device_with_sas(second_id, None, None, 'enabled')",
        ),
        Wrong(
            "The hub has no",
            "second_id = hub.device_id('second')\n"
            "hub.delete_device(second_id)\n"
            "second = 'disabled'",
        ),
    ],
    "01-a": [
        Wrong(
            "firmware is still '1.0.0'",
            "patch = {'battery': {'percent': 84, 'volts': 3.7}}\n"
            "client.patch_twin_reported_properties(patch)",
        ),
        Wrong(
            "'percent': '84'",
            "patch = {'battery': {'percent': '84', 'volts': 3.7}, 'firmware': None}\n"
            "client.patch_twin_reported_properties(patch)",
        ),
    ],
    "01-b": [
        Wrong(
            "the twin's speed became -1",
            "def set_speed(payload):\n"
            "    client.patch_twin_reported_properties({'speed': payload})\n"
            "    return (200, 'ok') if payload == 1500 else (400, 'no')\n"
            "methods['setSpeed'] = set_speed",
        ),
        Wrong(
            "setSpeed 'fast' got no answer",
            "def set_speed(payload):\n"
            "    if not 0 <= payload <= 3000:\n"
            "        return 400, 'no'\n"
            "    client.patch_twin_reported_properties({'speed': payload})\n"
            "    return 200, 'ok'\n"
            "methods['setSpeed'] = set_speed",
        ),
        Wrong(
            "setSpeed 1500 got status 501",
            "def set_speed(payload):\n"
            "    client.patch_twin_reported_properties({'speed': payload})\n"
            "methods['setSpeed'] = set_speed",
        ),
    ],
    "01-c": [
        Wrong(
            "HttpOperationError, HTTP 404",
            "def call_when_back(name):\n"
            "    method = CloudToDeviceMethod(method_name=name, response_timeout_in_seconds=20)\n"
            "    return hub.registry.invoke_device_method(device_id, method)",
        ),
        Wrong(
            "The call returned NoneType",
            "def call_when_back(name):\n"
            "    method = CloudToDeviceMethod(method_name=name, connect_timeout_in_seconds=20)\n"
            "    hub.registry.invoke_device_method(device_id, method)",
        ),
    ],
    "02-a": [
        Wrong("fwVersion is 1.0.", "version_patch = {'fwVersion': 1.0}\nreport(version_patch)"),
        Wrong("spelling of the key", "version_patch = {'version': '1.0.0'}\nreport(version_patch)"),
    ],
    "02-b": [
        Wrong(
            "s before the download was over",
            "def honest_walk(package_uri):\n"
            "    time.sleep(stage_seconds)\n"
            "    report({'firmwareStatus': 'downloading', 'downloadComplete': now()})\n"
            "    time.sleep(stage_seconds)\n"
            "    report({'firmwareStatus': 'applying', 'startedApplyingImage': now()})\n"
            "    time.sleep(stage_seconds)\n"
            "    report({'firmwareStatus': 'completed', 'lastFirmwareUpdate': now()})\n"
            "methods['honestUpdate'] = honest_walk",
        ),
        Wrong(
            "s after the device began to apply",
            "def honest_walk(package_uri):\n"
            "    report({'firmwareStatus': 'downloading'})\n"
            "    report({'firmwareStatus': 'applying', 'startedApplyingImage': now()})\n"
            "    time.sleep(stage_seconds)\n"
            "    report({'firmwareStatus': 'completed', 'downloadComplete': now()})\n"
            "methods['honestUpdate'] = honest_walk",
        ),
        Wrong(
            "downloadComplete is None",
            "def honest_walk(package_uri):\n"
            "    report({'firmwareStatus': 'applying', 'startedApplyingImage': now()})\n"
            "    report({'firmwareStatus': 'completed', 'lastFirmwareUpdate': now()})\n"
            "methods['honestUpdate'] = honest_walk",
        ),
        Wrong(
            "honestUpdate got status 404",
            "def honest_walk(package_uri):\n"
            "    report({'firmwareStatus': 'completed'})\n"
            "methods.pop('honestUpdate', None)",
        ),
    ],
    "02-c": [
        Wrong(
            "UpdateRejected 409",
            "def update_when_free(device_id):\n"
            "    return invoke_firmware_update(hub.registry, device_id)",
        ),
        Wrong(
            "the device is still at the first update",
            "def update_when_free(device_id):\n"
            "    try:\n"
            "        return invoke_firmware_update(hub.registry, device_id)\n"
            "    except UpdateRejected as refusal:\n"
            "        return refusal.payload",
        ),
    ],
}
