"""What holds in every state of a load balancer: traces, queues and what is observed of them.

Shapes: M environments, N servers, T requests an episode, S slots of requests.
"""

from collections.abc import Iterator, Mapping

import numpy as np

from grpo_gym.envs.batch_simulator import Rule, within
from grpo_gym.envs.kernels import kernel
from grpo_gym.envs.load_balancer.config import LoadBalancerConfig
from grpo_gym.envs.load_balancer.fleets import draw_config
from grpo_gym.envs.load_balancer.parameters import parameters_of, server_constants
from grpo_gym.envs.load_balancer.records import NO_REQUEST, OUTCOME
from grpo_gym.envs.load_balancer.trace import DOWN

_LARGEST = 1e60
"""No time or amount is larger, so that no product of a few overflows."""
_ROUNDING = 1e-6
State = Mapping[str, np.ndarray]


def balancer_rules(state: State, config: LoadBalancerConfig) -> Iterator[Rule]:
    """The rules of `LoadBalancerSimulator.state_rules`."""
    episodes, arrivals = state["episodes"], state["arrivals"]
    step, length = episodes["step"], config.episode_length
    yield "a step of the episode", within(step, 0, length)
    yield "done at the end, and only there", state["outcomes"]["done"] == (step == length)
    yield from _trace_rules(state, config)
    now = np.take_along_axis(arrivals["arrival_ms"], step[:, None], axis=1)[:, 0]
    # At the end, retries may still have been sent after the last arrival.
    later = (step == length) & within(episodes["now_ms"], now, _LARGEST)
    yield "now at the arrival of its step", (episodes["now_ms"] == now) | later
    yield "one of its balancers", within(episodes["balancer"], 0, config.balancer_slots - 1)
    most = state["requests"].shape[1]
    for name in ("errors", "timeouts", "rejections", "retries"):
        yield f"{name} among its requests", within(episodes[name], 0, most)
    yield "a finite response_total_ms", within(episodes["response_total_ms"], 0.0, _LARGEST)
    yield from _outcome_rules(state["outcomes"])
    yield from _request_rules(state, config)
    yield from _server_rules(state, config)


def _trace_rules(state: State, config: LoadBalancerConfig) -> Iterator[Rule]:
    arrivals, faults = state["arrivals"], state["faults"]
    times = arrivals["arrival_ms"]
    yield "finite arrivals", within(times, 0.0, _LARGEST)
    yield "arrivals in order", times[:, 1:] >= times[:, :-1]
    yield "finite sizes", within(arrivals["size"], 0.0, np.finfo(np.float32).max)
    yield "coins from 0 to 1", (arrivals["error_coin"] > 0.0) & (arrivals["error_coin"] <= 1.0)
    yield "known kinds of faults", within(faults["kind"], 0, DOWN)
    starts, ends = faults["start_ms"], faults["end_ms"]
    yield "faults that begin before they end", (starts >= 0.0) & (starts <= ends)
    yield "no server down for ever", (faults["kind"] != DOWN) | within(ends, 0.0, _LARGEST)
    if config.distributions:
        yield "the settings that its seed draws", _drawn_by_its_seed(state, config)


def _drawn_by_its_seed(state: State, config: LoadBalancerConfig) -> np.ndarray:
    """Whether each environment has the settings of its seed, shape (M,), bool."""
    fleets = [draw_config(config, seed) for seed in state["episodes"]["seed"].tolist()]
    return np.array(
        [
            _close(constants, server_constants(fleet)) and _close(own, parameters_of(fleet)[0])
            for fleet, constants, own in zip(
                fleets, state["constants"], state["parameters"], strict=True
            )
        ],
        np.bool_,
    )


def _close(found: np.ndarray, expected: np.ndarray) -> bool:
    """Equal up to the last bits, in which machines differ."""
    return all(
        np.allclose(found[name], expected[name], rtol=1e-9, atol=0.0)
        for name in expected.dtype.names or ()
    )


def _outcome_rules(outcomes: np.ndarray) -> Iterator[Rule]:
    for name in OUTCOME.names or ():
        if OUTCOME[name] == np.float64:
            yield f"a finite {name}", within(outcomes[name], -_LARGEST, _LARGEST)
    for name in ("retries", "failures"):
        yield f"{name} >= 0", outcomes[name] >= 0


def _request_rules(state: State, config: LoadBalancerConfig) -> Iterator[Rule]:
    requests = state["requests"]  # those of steps to come are left from an earlier episode
    for name in ("arrival_ms", "departure_ms", "response_ms"):
        yield f"a finite {name} in its requests", within(requests[name], 0.0, _LARGEST)
    yield "finite sizes of its requests", within(requests["size"], 0.0, np.finfo(np.float32).max)
    servers = within(requests["server"], NO_REQUEST, config.server_slots - 1)
    yield "servers for its requests", servers
    balancers = within(requests["balancer"], 0, config.balancer_slots - 1)
    yield "balancers for its requests", balancers


def _server_rules(state: State, config: LoadBalancerConfig) -> Iterator[Rule]:
    episodes, servers = state["episodes"], state["servers"]
    slots = state["requests"].shape[1]
    yield "faults of its trace", within(servers["fault"], 0, state["faults"].shape[2] - 1)
    yield "from 0 to all requests in flight", within(servers["in_flight"], 0, slots)
    yield "free servers at some time", within(servers["free_at_ms"], 0.0, _LARGEST)
    refresh = within(servers["next_refresh_ms"], -_LARGEST, _LARGEST)
    yield "the next publication at some time", refresh
    yield "the next change of health at some time", ~np.isnan(servers["next_change_ms"])
    for name in ("servers", "metrics"):
        yield from _observed_rules(state[name], episodes["now_ms"][:, None], name)
    if config.balancer_slots == 1 and config.staleness_ms == 0.0:
        yield "metrics that are the servers", state["metrics"] == servers
    if config.dynamics == "queue":
        yield "queues as their requests are linked", _linked(state, config)


def _observed_rules(seen: np.ndarray, now: np.ndarray, name: str) -> Iterator[Rule]:
    """What is observed gives finite features."""
    yield f"requests in flight in {name}", seen["in_flight"] >= 0
    for each in ("latency_ms", "service_ms", "pace", "mean_size", "work"):
        finite = within(seen[each], -_ROUNDING, _LARGEST)
        yield f"a finite {each} >= 0 in {name}", finite
    errors = within(seen["error_rate"], -_ROUNDING, 1.0 + _ROUNDING)
    yield f"error rates from 0 to 1 in {name}", errors
    yield f"observations of the past in {name}", within(seen["observed_at_ms"], -1.0, now)
    oldest = within(seen["oldest_arrival_ms"], 0.0, now) | (seen["in_flight"] == 0)
    yield f"oldest requests of the past in {name}", oldest
    last = within(seen["last_departure_ms"], -1.0, _LARGEST)
    yield f"last departures in {name}", last
    yield f"errors in a row in {name}", seen["consecutive_errors"] >= 0


def _linked(state: State, config: LoadBalancerConfig) -> np.ndarray:
    """Whether the queues of each environment hold together, shape (M,), bool."""
    count, slots = state["requests"].shape
    present = np.full(count, config.num_servers)
    if config.distributions:
        present = state["parameters"]["num_servers"].astype(np.int64)
    shared = config.balancer_slots > 1
    holds = np.ones(count, np.bool_)
    visited = np.zeros(slots, np.bool_)
    counts = np.zeros(config.balancer_slots * config.server_slots, np.int64)
    follow_links(
        state["episodes"],
        state["servers"],
        state["metrics"],
        state["requests"],
        present,
        config.episode_length + 1,
        shared,
        visited,
        counts,
        holds,
    )
    return holds


@kernel
def follow_links(
    episodes: np.ndarray,
    servers: np.ndarray,
    views: np.ndarray,
    requests: np.ndarray,
    present: np.ndarray,
    first_retry: int,
    shared: bool,
    visited: np.ndarray,
    counts: np.ndarray,
    holds: np.ndarray,
) -> None:
    """Follow each queue, and the retries to come, and write where every link leads on.

    Each has distinct requests that were sent, in the order of departure; the retries to come are in
    the order of time.

    Args:
        episodes: `EPISODE` records, shape (M,).
        servers: `SERVER` records, shape (M, N).
        views: The servers as balancers see them, shape (M, balancers * N); read if shared.
        requests: `REQUEST` records, shape (M, S).
        present: Servers of each environment, shape (M,).
        first_retry: The first slot of retries.
        shared: Whether there are several balancers.
        visited: Working memory, shape (S,), bool.
        counts: Working memory, shape (balancers * N,), int64.
        holds: Written where an environment breaks a rule, shape (M,), bool.
    """
    slots = requests.shape[1]
    for m in range(holds.shape[0]):
        episode = episodes[m]
        visited[:] = False
        counts[:] = 0
        for n in range(servers.shape[1]):
            server = servers[m, n]
            if server.in_flight > 0 and n >= present[m]:
                holds[m] = False
                break
            slot, latest = server.head, episode.now_ms
            for i in range(server.in_flight):
                kind = slot % first_retry
                if slot < 0 or slot >= slots or kind >= episode.step or visited[slot]:
                    holds[m] = False
                    break
                visited[slot] = True
                request = requests[m, slot]
                if request.server != n or not request.departure_ms >= latest:
                    holds[m] = False
                    break
                latest = request.departure_ms
                if i == 0 and server.next_departure_ms != latest:
                    holds[m] = False
                if i == server.in_flight - 1 and (
                    server.tail != slot or server.free_at_ms < latest
                ):
                    holds[m] = False
                counts[request.balancer * servers.shape[1] + n] += 1
                slot = request.next
        if not holds[m]:
            continue
        if shared:
            for v in range(views.shape[1]):
                if views[m, v].in_flight != counts[v]:
                    holds[m] = False
        slot, latest = episode.next_retry, episode.now_ms
        while slot != -1:
            if slot < first_retry or slot >= slots or slot - first_retry >= episode.step:
                holds[m] = False
                break
            planned = requests[m, slot]
            if (
                visited[slot] or not 0 <= planned.server < servers.shape[1]
            ):  # it may have been absent
                holds[m] = False
                break
            if not planned.arrival_ms >= latest or planned.response_ms > 1.0:
                holds[m] = False
                break
            visited[slot] = True
            latest = planned.arrival_ms
            slot = planned.next
