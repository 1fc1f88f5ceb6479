condition = (
    f"{mine} AND tags.site IN ['berlin', 'porto'] AND {version} = '1.0.0' "
    "AND connectionState = 'Connected'"
)
