"""The M/M/c queue: probability of a wait, and distribution of the time in the system.

Arrivals are Poisson with offered load a (arrival rate over the service rate of one server); c equal
servers have exponential service times. Times are in mean service times. A request waits with the
probability C of Erlang's second formula, for an exponential time of rate c - a. Its sojourn (wait
and service) exceeds t with the probability
    e^-t + C (e^-t - e^-(g+1)t) / g, where g + 1 is the rate of waiting times,
and e^-t (1 + C t) in the limit g = 0.

Source: Gross, Shortle, Thompson and Harris, Fundamentals of Queueing Theory (2008), chapter 2.
"""

import math

from grpo_gym.envs.kernels import inlined, kernel

_NEVER = 1e-13
"""Probability of a wait below which percentiles are those of the service alone."""
_EXACT = 1e-12


@kernel
def erlang_c(servers: int, load: float) -> float:
    """Compute the probability C that an arrival has to wait.

    Args:
        servers: c >= 1.
        load: Offered load a >= 0; from c on, every arrival waits.

    Source: C from Erlang's first formula B, whose recursion 1/B(k) = 1 + k/a 1/B(k-1) (Jagerman,
    Bell System Technical Journal 53(3), 1974) needs no division in the loop.
    """
    if load >= servers:
        return 1.0
    if load <= 0.0:
        return 0.0
    step = 1.0 / load
    ratio = 0.0
    inverse = 1.0
    for _ in range(servers):
        ratio += step
        inverse = 1.0 + ratio * inverse
    share = load / servers
    return 1.0 / (share + (1.0 - share) * inverse)


@kernel
def sojourn_tail(time: float, waiting: float, drain: float) -> float:
    """Compute the probability that a sojourn exceeds a time.

    Args:
        time: In mean service times; the probability is 1 up to 0.
        waiting: Probability of a wait, C.
        drain: Rate of waiting times, > 0.
    """
    if time <= 0.0:
        return 1.0
    factor, _ = _factor(time, waiting, drain - 1.0)
    return math.exp(-min(1.0, drain) * time) * factor


@kernel
def sojourn_percentile(exceeded: float, waiting: float, drain: float) -> float:
    """Compute the time that sojourns exceed with a given probability.

    The logarithm of the tail is concave where g + C > 0 and convex elsewhere, so Newton's method
    converges monotonically from the percentile of the service alone.

    Args:
        exceeded: Probability in (0, 1), such as 0.01 for the 99th percentile.
        waiting: Probability of a wait, C.
        drain: Rate of waiting times, > 0.
    """
    goal = -math.log(exceeded)
    time = goal
    if waiting < _NEVER:
        return time
    for _ in range(100):
        factor, growth = _factor(time, waiting, drain - 1.0)
        slower = min(1.0, drain)
        change = (goal - slower * time + math.log(factor)) / (growth / factor - slower)
        time -= change
        if abs(change) <= _EXACT * time:
            break
    return time


@inlined
def _factor(time: float, waiting: float, rate: float) -> tuple[float, float]:
    """Divide the tail by the slower of its two exponentials, so that nothing overflows.

    Returns:
        The quotient and its derivative.
    """
    size = abs(rate)
    gain = time if size * time < 1e-12 else -math.expm1(-size * time) / size
    left = 1.0 - size * gain
    if rate >= 0.0:
        return 1.0 + waiting * gain, waiting * left
    return left + waiting * gain, (waiting - size) * left
