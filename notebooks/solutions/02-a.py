version_patch = {"firmware": {"currentFwVersion": "1.0.0"}}
if version_patch is not ...:
    report(version_patch)
hub.registry.get_twin(device_id).properties.reported.get("firmware")
