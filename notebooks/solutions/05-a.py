def attendees_that_fit(daily, for_one_update, updates_each):
    return daily // (for_one_update * updates_each)


attendees_that_fit(8_000, 137, updates_each)  # if an update costs 137 messages
