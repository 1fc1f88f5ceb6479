def update_when_free(device_id):
    try:
        return invoke_firmware_update(hub.registry, device_id)
    except UpdateRejected:
        for _ in watch_update(hub.registry, device_id):
            pass  # until the update that runs has ended
        return invoke_firmware_update(hub.registry, device_id)
