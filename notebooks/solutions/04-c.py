way = {
    "tonight at two, all of Oslo shall reboot": "job",
    "every thermostat that is ever sold shall run at least 2.0.0": "configuration",
    "a technician updates one device and waits beside it": "method",
    "a new image that nobody has tried in the field": "method",
}
