def should_stop(ends, abort_at):
    failed = sum(end != "completed" for end in ends.values())
    return bool(ends) and failed / len(ends) > abort_at
