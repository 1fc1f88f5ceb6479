second_id = hub.device_id("second")
hub.delete_device(second_id)  # so that this cell can run again
second = hub.registry.create_device_with_sas(second_id, None, None, "disabled")
hub.mark_as_mine(second_id)
