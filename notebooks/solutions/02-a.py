report({"fwVersion": "1.0.0"})
