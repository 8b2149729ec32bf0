"""What a machine that is taken away now and then costs, and how often to save against it."""

import math

ASSUMED_HOURS = 24.0  # between kills, where nobody says


def best_minutes(stall_seconds: float, write_seconds: float, kill_hours: float) -> float:
    """Minutes between checkpoints that cost least: sqrt(2 C M), Young 1974.

    C is what training waits for a save, M the mean time between kills; Daly 2006 has the terms of
    higher order, which matter only where C is no longer small beside M. A save is written while
    training goes on, so the interval is at least what writing takes.
    """
    seconds = math.sqrt(2 * stall_seconds * 3600 * kill_hours)
    return max(seconds, write_seconds) / 60


def expected_hours(hours: float, minutes: float, stall_seconds: float, kill_hours: float) -> float:
    """Of a run of `hours` that saves every `minutes`, repeated work and saving included.

    M (exp((T + C) / M) - 1) hours / T: Daly 2006, for kills that come independently
    of one another, without the time of a restart. Infinite where no interval would ever be done.
    """
    interval = min(minutes / 60, hours)
    exponent = (interval + stall_seconds / 3600) / kill_hours
    if exponent > 700:  # beyond the largest float
        return math.inf
    return kill_hours * math.expm1(exponent) * hours / interval
