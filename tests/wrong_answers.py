"""Two typical wrong answers for each exercise: what a check must not let pass."""

from __future__ import annotations

WRONG_ANSWERS = {
    "00-a": [
        'client.patch_twin_reported_properties({"setUpBy": 7})',
        'client.patch_twin_reported_properties({"setUpBy": ""})',
    ],
    "00-b": [
        "second_id = hub.device_id('second')\n"
        "hub.delete_device(second_id)\n"
        "second = hub.registry.create_device_with_sas(second_id, None, None, 'enabled')",
        "second_id = hub.device_id('second')\nhub.delete_device(second_id)\nsecond = 'disabled'",
    ],
    "01-a": [
        "patch = {'battery': {'percent': 84, 'volts': 3.7}}\n"
        "client.patch_twin_reported_properties(patch)",
        "patch = {'battery': {'percent': '84', 'volts': 3.7}, 'firmware': None}\n"
        "client.patch_twin_reported_properties(patch)",
    ],
    "01-b": [
        "def set_speed(payload):\n"
        "    client.patch_twin_reported_properties({'speed': payload})\n"
        "    return (200, 'ok') if payload == 1500 else (400, 'no')\n"
        "methods['setSpeed'] = set_speed",
        "def set_speed(payload):\n"
        "    client.patch_twin_reported_properties({'speed': payload})\n"
        "    return 200, 'ok'\n"
        "methods['setSpeed'] = set_speed",
    ],
    "01-c": [
        "def call_when_back(name):\n"
        "    method = CloudToDeviceMethod(method_name=name, response_timeout_in_seconds=20)\n"
        "    return hub.registry.invoke_device_method(device_id, method)",
        "def call_when_back(name):\n"
        "    time.sleep(3)\n"
        "    method = CloudToDeviceMethod(method_name='reboot')\n"
        "    return hub.registry.invoke_device_method(device_id, method)",
    ],
    "02-a": ["report({'fwVersion': 1.0})", "report({'fwVersion': '1.0'})"],
    "02-b": [
        "def honest_walk(package_uri):\n"
        "    report({'firmwareStatus': 'downloading', 'downloadComplete': now()})\n"
        "    time.sleep(stage_seconds)\n"
        "    report({'firmwareStatus': 'applying', 'startedApplyingImage': now()})\n"
        "    report({'firmwareStatus': 'completed', 'lastFirmwareUpdate': now()})\n"
        "methods['honestUpdate'] = honest_walk",
        "def honest_walk(package_uri):\n"
        "    report({'firmwareStatus': 'applying', 'startedApplyingImage': now()})\n"
        "    report({'firmwareStatus': 'completed', 'lastFirmwareUpdate': now()})\n"
        "methods['honestUpdate'] = honest_walk",
    ],
    "02-c": [
        "def update_when_free(device_id):\n"
        "    return invoke_firmware_update(hub.registry, device_id)",
        "def update_when_free(device_id):\n"
        "    try:\n"
        "        return invoke_firmware_update(hub.registry, device_id)\n"
        "    except UpdateRejected as refusal:\n"
        "        return refusal.payload",
    ],
}
