"""Typical wrong answers for each exercise, two at least: what a check must not let pass."""

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
        Wrong(
            "patch is {'firmware': None} now",  # two patches
            "patch = {'battery': {'percent': 84, 'volts': 3.7}}\n"
            "client.patch_twin_reported_properties(patch)\n"
            "patch = {'firmware': None}\n"
            "client.patch_twin_reported_properties(patch)",
        ),
    ],
    "01-b": [
        Wrong(
            "the twin's speed became -1",
            "def set_speed(payload):\n"
            "    client.patch_twin_reported_properties({'speed': payload})\n"
            "    return (200, 'ok') if payload in (0, 1500, 3000) else (400, 'no')\n"
            "methods['setSpeed'] = set_speed",
        ),
        Wrong(
            "setSpeed 0 got status 400",  # knows the example alone
            "def set_speed(payload):\n"
            "    if payload != 1500:\n"
            "        return 400, 'no'\n"
            "    client.patch_twin_reported_properties({'speed': payload})\n"
            "    return 200, 'ok'\n"
            "methods['setSpeed'] = set_speed",
        ),
        Wrong(
            "setSpeed True got status 200",
            "def set_speed(payload):\n"
            "    if not isinstance(payload, int) or not 0 <= payload <= 3000:\n"
            "        return 400, 'no'\n"
            "    client.patch_twin_reported_properties({'speed': payload})\n"
            "    return 200, 'ok'\n"
            "methods['setSpeed'] = set_speed",
        ),
        Wrong(
            "setSpeed 2.5 got status 200",
            "def set_speed(payload):\n"
            "    if not isinstance(payload, (int, float)) or not 0 <= payload <= 3000:\n"
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
        Wrong(
            "HttpOperationError, HTTP 404",  # a pause in the place of the hub's wait
            "def call_when_back(name):\n"
            "    time.sleep(1.5)\n"
            "    method = CloudToDeviceMethod(method_name=name, response_timeout_in_seconds=20)\n"
            "    return hub.registry.invoke_device_method(device_id, method)",
        ),
        Wrong(
            "came when the pump was back already",  # many pauses
            "def call_when_back(name):\n"
            "    method = CloudToDeviceMethod(method_name=name, response_timeout_in_seconds=20)\n"
            "    for _ in range(100):\n"
            "        try:\n"
            "            return hub.registry.invoke_device_method(device_id, method)\n"
            "        except HttpOperationError:\n"
            "            time.sleep(0.1)",
        ),
        Wrong(
            "CloudToDeviceMethodResult with status 404",
            "def call_when_back(name):\n"
            "    method = CloudToDeviceMethod(\n"
            "        method_name='areYouBack', connect_timeout_in_seconds=20\n"
            "    )\n"
            "    return hub.registry.invoke_device_method(device_id, method)",
        ),
        Wrong(
            "SimpleNamespace with status 404",
            "def call_when_back(name):\n"
            "    from types import SimpleNamespace\n"
            "    return SimpleNamespace(status=404, payload=f'no method {name}')",
        ),
        Wrong(
            "The hub was to wait up to 5 s",
            "def call_when_back(name):\n"
            "    method = CloudToDeviceMethod(method_name=name, connect_timeout_in_seconds=5)\n"
            "    return hub.registry.invoke_device_method(device_id, method)",
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
            "s before the download was over",  # all at once, and far too early
            "def honest_walk(package_uri):\n"
            "    time.sleep(stage_seconds)\n"
            "    report({'firmwareStatus': 'downloading'})\n"
            "    report({'firmwareStatus': 'applying', 'downloadComplete': now(),\n"
            "            'startedApplyingImage': now()})\n"
            "    time.sleep(stage_seconds)\n"
            "    time.sleep(stage_seconds)\n"
            "    report({'firmwareStatus': 'completed', 'lastFirmwareUpdate': now()})\n"
            "methods['honestUpdate'] = honest_walk",
        ),
        Wrong(
            "no report said that the device was applying",
            "def honest_walk(package_uri):\n"
            "    time.sleep(stage_seconds)\n"
            "    report({'firmwareStatus': 'downloading'})\n"
            "    time.sleep(stage_seconds)\n"
            "    report({'downloadComplete': now(), 'startedApplyingImage': now()})\n"
            "    time.sleep(stage_seconds)\n"
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
        Wrong(
            "nobody looked whether the device was free",
            "def update_when_free(device_id):\n"
            "    try:\n"
            "        return invoke_firmware_update(hub.registry, device_id)\n"
            "    except UpdateRejected:\n"
            "        time.sleep(1.5)\n"
            "        return invoke_firmware_update(hub.registry, device_id)",
        ),
        Wrong(
            "The first update was ended before its time",
            "def update_when_free(device_id):\n"
            "    from fwupdate_helpers.service import cancel_firmware_update\n"
            "    cancel_firmware_update(hub.registry, device_id)\n"
            "    for _ in watch_update(hub.registry, device_id):\n"
            "        pass\n"
            "    return invoke_firmware_update(hub.registry, device_id)",
        ),
    ],
    "03-a": [
        Wrong(
            "From 0 to 0.2 s",
            "def backoff(attempt):\n    return min(8, 0.2 * 2**attempt) + random.uniform(0, 1)",
        ),
        Wrong(
            "Drawn from all between",
            "def backoff(attempt):\n    return min(8, 0.2 * 2**attempt)",
        ),
        Wrong(
            "Drawn from all between",
            "def backoff(attempt):\n    return random.choice([0, min(8, 0.2 * 2**attempt)])",
        ),
    ],
    "03-b": [
        Wrong(
            "of another one that never was, it said True",
            "def was_heard(update_id):\n"
            "    twin = hub.registry.get_twin(thermostat.device_id)\n"
            "    return 'updateId' in twin.properties.reported['firmwareUpdate']",
        ),
        Wrong(
            "that was heard, was_heard said False",
            "seen = hub.registry.get_twin(thermostat.device_id).properties.reported\n"
            "def was_heard(update_id):\n"
            "    return seen['firmwareUpdate']['updateId'] == update_id",
        ),
    ],
    "03-c": [
        Wrong(
            "504101 (GatewayTimeout): 'again'",
            "decision = {401: 'never', 429: 'again', 504101: 'again', 'answerLost': 'look'}",
        ),
        Wrong(
            "429 (throttling): it is not decided yet",
            "decision = {401: 'never', 429: ..., 504101: 'look', 'answerLost': 'look'}",
        ),
        Wrong(
            "answerLost (answer lost): decision does not have it",
            "decision = {401: 'never', 429: 'again', 504101: 'look'}",
        ),
        Wrong(
            "401 (unauthorized): 'again'",
            "decision = dict.fromkeys([401, 429, 504101, 'answerLost'], 'again')",
        ),
    ],
    "04-a": [
        Wrong(
            "and is disconnected.",
            "condition = f\"{mine} AND {site} != 'oslo' AND {version} = '1.0.0'\"",
        ),
        Wrong(
            "The hub does not understand the query",
            "condition = f\"{mine} AND {site} == 'berlin'\"",
        ),
        Wrong(
            'f"…" puts in what stands in braces',
            "condition = \"{mine} AND {site} = 'berlin'\"",
        ),
        Wrong(
            "misses",
            "condition = f\"{mine} AND {site} = 'berlin' AND {version} = '1.0.0' \"\n"
            "condition += \"AND connectionState = 'Connected'\"",
        ),
    ],
    "04-b": [
        Wrong(
            "Of 10 devices 9 completed, 1 failed and 0 rolled back; abort_at is 0.1: it returned",
            "def should_stop(ends, abort_at):\n"
            "    failed = sum(end != 'completed' for end in ends.values())\n"
            "    return bool(ends) and failed / len(ends) >= abort_at",
        ),
        Wrong(
            "0 failed and 1 rolled back; abort_at is 0.1: it returned False",
            "def should_stop(ends, abort_at):\n"
            "    return list(ends.values()).count('error') / max(len(ends), 1) > abort_at",
        ),
        Wrong(
            "Of 0 devices",
            "def should_stop(ends, abort_at):\n"
            "    failed = sum(end != 'completed' for end in ends.values())\n"
            "    return failed / len(ends) > abort_at",
        ),
    ],
    "04-c": [
        Wrong(
            "every one: 'job'",
            "way = dict.fromkeys(['tonight', 'every one', 'a technician', 'nobody yet'], 'job')",
        ),
        Wrong(
            "nobody yet: it is not decided yet",
            "way = dict(tonight='job', every='configuration', technician='method')\n"
            "way['nobody yet'] = ...",
        ),
    ],
    "05-a": [
        Wrong(
            "attendees_that_fit(8000, 100, 12) gave 7",
            "def attendees_that_fit(daily, for_one_update, updates_each):\n"
            "    return round(daily / (for_one_update * updates_each))",
        ),
        Wrong(
            "attendees_that_fit(8000, 100, 12) gave 80",
            "def attendees_that_fit(daily, for_one_update, updates_each):\n"
            "    return daily // for_one_update",
        ),
        Wrong(
            "gave 6.0",
            "def attendees_that_fit(daily, for_one_update, updates_each):\n"
            "    return float(daily // (for_one_update * updates_each))",
        ),
        Wrong(
            "gave None",
            "def attendees_that_fit(daily, for_one_update, updates_each):\n"
            "    print(daily // (for_one_update * updates_each))",
        ),
    ],
    "05-b": [
        Wrong(
            "With the policy registryRead, the hub answered 401",
            "calls = ['read an identity', 'create an identity',\n"
            "    'write a desired property', 'invoke a direct method']\n"
            "permission = dict.fromkeys(calls, 'RegistryRead')",
        ),
        Wrong(
            "read an identity: RegistryWrite is enough, and more than that",
            "permission = {'read an identity': 'RegistryWrite',\n"
            "    'create an identity': 'RegistryWrite',\n"
            "    'write a desired property': 'ServiceConnect',\n"
            "    'invoke a direct method': 'ServiceConnect'}",
        ),
        Wrong(
            "invoke a direct method: DeviceConnect is not enough",
            "permission = {'read an identity': 'RegistryRead',\n"
            "    'create an identity': 'RegistryWrite',\n"
            "    'write a desired property': 'ServiceConnect',\n"
            "    'invoke a direct method': 'DeviceConnect'}",
        ),
        Wrong(
            "write a desired property: 'serviceconnect' is no permission",
            "permission = {'read an identity': 'RegistryRead',\n"
            "    'create an identity': 'RegistryWrite',\n"
            "    'write a desired property': 'serviceconnect',\n"
            "    'invoke a direct method': 'ServiceConnect'}",
        ),
    ],
}
