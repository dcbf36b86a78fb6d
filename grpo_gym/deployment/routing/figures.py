"""The endpoints of a core in figures."""

import numpy as np

from grpo_gym.deployment.routing.fleet import Fleet
from grpo_gym.deployment.routing.records import EndpointStatus
from grpo_gym.deployment.routing.roster import Roster

_RECENT = 1_000
"""Picks of which each endpoint's share is reported."""


def endpoint_figures(roster: Roster, fleet: Fleet, now_ms: float) -> tuple[EndpointStatus, ...]:
    """Each endpoint as it is seen now, in the order of the roster."""
    step = int(fleet.simulator.episodes["step"][0])
    recent = fleet.simulator.requests["server"][0, max(0, step - _RECENT) : step]
    picks = np.bincount(recent[recent >= 0], minlength=len(roster.members))
    shares = picks / max(1, picks.sum())
    figures = []
    for member, seen, share in zip(roster.members, fleet.servers, shares, strict=False):
        endpoint, answered_ms = member.endpoint, float(seen["observed_at_ms"])
        latency_ms = float(seen["latency_ms"])
        figures.append(
            EndpointStatus(
                name=endpoint.name,
                url=endpoint.url,
                weight=endpoint.weight,
                in_flight=int(seen["in_flight"]),
                latency_ms=latency_ms if latency_ms > 0.0 else None,
                error_rate=float(seen["error_rate"]),
                share=float(share),
                healthy=member.health.may_be_chosen,
                ejected=member.health.state != "healthy",
                age_s=(now_ms - answered_ms) / 1_000.0 if answered_ms >= 0.0 else None,
                probing=member.health.reported and member.health.state == "probing",
            )
        )
    return tuple(figures)
