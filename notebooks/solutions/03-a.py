def backoff(attempt):
    return random.uniform(0, min(8, 0.2 * 2**attempt))
