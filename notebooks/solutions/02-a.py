version_patch = {"fwVersion": "1.0.0"}
if version_patch is not ...:
    report(version_patch)
