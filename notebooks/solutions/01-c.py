def call_when_back(name):
    method = CloudToDeviceMethod(
        method_name=name, response_timeout_in_seconds=10, connect_timeout_in_seconds=20
    )
    return hub.registry.invoke_device_method(device_id, method)
