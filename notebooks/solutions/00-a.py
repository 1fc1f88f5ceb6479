set_up_by = "Ada"
if set_up_by is not ...:
    client.patch_twin_reported_properties({"setUpBy": set_up_by})
