def was_heard(update_id):
    twin = hub.registry.get_twin(thermostat.device_id)
    return twin.properties.reported["firmwareUpdate"]["updateId"] == update_id
