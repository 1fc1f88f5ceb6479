def set_speed(payload):
    if type(payload) is not int or not 0 <= payload <= 3000:
        return 400, "a whole number from 0 to 3000, please"
    client.patch_twin_reported_properties({"speed": payload})
    return 200, f"speed is {payload}"


methods = globals().get("methods", {}) | {"setSpeed": set_speed}
