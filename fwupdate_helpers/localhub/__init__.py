"""A small stand-in for Azure IoT Hub on loopback, for the unmodified Azure SDKs.

It speaks the device side of IoT Hub (MQTT 3.1.1 over TLS on port 8883) and the service side
(HTTPS REST), checks every credential, and keeps its state in SQLite. It is a process of its own:
``python -m fwupdate_helpers.localhub --help``.

Where to find things: `device_endpoint` and `device_connection` (MQTT), `service_endpoint` (REST),
`identities` and `error_responses` (its JSON), `methods` (direct methods between the two), `twins`
(the rules of a device twin), `store` (SQLite), `authentication` and `sas` (who may do what), `tls`
(the private CA), `server` (one running hub), `background` (start, find and stop the one that all
notebooks of a user share).
"""
