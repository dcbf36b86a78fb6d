"""Many servers before one queue, M/M/c: how likely a wait is, how long, and percentiles.

Poisson arrivals of load a (arrival rate over the service rate of one server), c equal servers of
exponential service times. Times are in mean service times. A request waits with the probability
C of Erlang's second formula, and then exponentially long, with the rate c - a; so its sojourn, the
wait and the service, exceeds t with the probability
    e^-t + C (e^-t - e^-(g+1)t) / g, where g + 1 is the rate of waiting times,
and e^-t (1 + C t) in the limit g = 0.

Source: Gross, Shortle, Thompson and Harris, Fundamentals of Queueing Theory (2008), chapter 2.
"""

import math

from grpo_gym.envs.kernels import inlined, kernel

_NEVER = 1e-13
"""A probability of waiting that changes no percentile."""
_EXACT = 1e-12


@kernel
def erlang_c(servers: int, load: float) -> float:
    """Probability that an arrival has to wait.

    Args:
        servers: c >= 1.
        load: Offered load a >= 0; from c on everybody waits.

    Source: the recursion of Erlang's first formula B (Jagerman, Bell System Technical Journal
    53(3), 1974), 1/B(k) = 1 + k/a 1/B(k-1), which divides nothing, and C from it.
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
def wait_factor(arrival_scv: float, service_scv: float) -> float:
    """How many times longer than with Poisson arrivals and exponential service a wait is.

    Args:
        arrival_scv: Squared coefficient of variation of the times between arrivals.
        service_scv: And of service times.

    Source: Allen, Probability, Statistics and Queueing Theory (1990): Allen and Cunneen's G/G/c.
    """
    return 0.5 * (arrival_scv + service_scv)


@kernel
def mean_sojourn(waiting: float, drain: float) -> float:
    """Mean wait and service.

    Args:
        waiting: Probability of a wait, C.
        drain: Rate of waiting times: c - a over the `wait_factor`.
    """
    return 1.0 + waiting / drain


@kernel
def sojourn_tail(time: float, waiting: float, drain: float) -> float:
    """Probability that wait and service together exceed a time; 1 before 0.

    Args:
        time: In mean service times.
        waiting: Probability of a wait, C.
        drain: Rate of waiting times, > 0.
    """
    if time <= 0.0:
        return 1.0
    factor, _ = _factor(time, waiting, drain - 1.0)
    return math.exp(-min(1.0, drain) * time) * factor


@kernel
def sojourn_percentile(exceeded: float, waiting: float, drain: float) -> float:
    """The time that wait and service together exceed with this probability.

    The logarithm of the tail is concave where g + C > 0 and convex elsewhere, so Newton's steps on
    it from the percentile of service alone come down (or up) to the root without fail.

    Args:
        exceeded: Such as 0.01 for the 99th percentile; in (0, 1).
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
    """The tail over the slower of its two exponentials, and its derivative; neither overflows."""
    size = abs(rate)
    gain = time if size * time < 1e-12 else -math.expm1(-size * time) / size
    left = 1.0 - size * gain
    if rate >= 0.0:
        return 1.0 + waiting * gain, waiting * left
    return left + waiting * gain, (waiting - size) * left
