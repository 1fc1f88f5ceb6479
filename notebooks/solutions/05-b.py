permission = {
    "read an identity": "RegistryRead",
    "create an identity": "RegistryWrite",
    "write a desired property": "ServiceConnect",
    "invoke a direct method": "ServiceConnect",
}
