patch = {"battery": {"percent": 84, "volts": 3.7}, "firmware": None}
if patch is not ...:
    client.patch_twin_reported_properties(patch)
