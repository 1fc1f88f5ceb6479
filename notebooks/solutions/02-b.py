def honest_walk(package_uri):
    time.sleep(stage_seconds)  # waiting for the image
    report({"firmwareStatus": "downloading"})
    time.sleep(stage_seconds)  # downloading from package_uri
    report({"firmwareStatus": "applying", "downloadComplete": now(), "startedApplyingImage": now()})
    time.sleep(stage_seconds)  # writing the image to flash
    report({"firmwareStatus": "completed", "lastFirmwareUpdate": now()})


methods["honestUpdate"] = honest_walk
