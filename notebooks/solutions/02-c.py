def status_of(request):
    if "fwPackageUri" not in (request.payload or {}):
        return 400
    busy = any(thread.name == "firmware-update" for thread in threading.enumerate())
    return 409 if busy else 200


def careful(request):
    status = status_of(request)
    if status in (200, ...):
        return on_method(request)
    response = MethodResponse.create_from_method_request(request, status, {"Response": "refused"})
    client.send_method_response(response)


client.on_method_request_received = careful
