"""`AutoScaler-v0` for one cluster."""

from typing import Any

import gymnasium as gym
import numpy as np

from grpo_gym.envs.autoscaler.actions import COMPONENTS, count_choices
from grpo_gym.envs.autoscaler.observation import NUM_METRICS, feature_names
from grpo_gym.envs.autoscaler.presets import AutoScalerConfig, make_config
from grpo_gym.envs.autoscaler.rendering import Frame, current_frame, render_ansi, render_rgb
from grpo_gym.envs.autoscaler.simulator import AutoScalerSimulator
from grpo_gym.envs.native_env import NativeEnv
from grpo_gym.envs.native_task import NativeTask


def _observation_space(config: AutoScalerConfig) -> gym.Space[Any]:
    current = gym.spaces.Box(-1.0, 1.0, (len(feature_names(config)),), np.float32)
    if config.history == 0:
        return current
    history = gym.spaces.Box(-1.0, 1.0, (config.history, NUM_METRICS), np.float32)
    return gym.spaces.Dict({"current_metrics": current, "metrics_history": history})


def _action_space(config: AutoScalerConfig) -> gym.spaces.Discrete | gym.spaces.MultiDiscrete:
    if config.action == "multi":
        return gym.spaces.MultiDiscrete(list(COMPONENTS))
    return gym.spaces.Discrete(count_choices(config))


def _event(simulator: AutoScalerSimulator, b: int, action: Any) -> Frame:
    return current_frame(simulator, b)


TASK = NativeTask(
    make_config=make_config,
    simulator=AutoScalerSimulator,
    observation_space=_observation_space,
    action_space=_action_space,
    action_name="choice",
    event=_event,
    render_ansi=render_ansi,
    render_rgb=render_rgb,
)


class AutoScalerEnv(NativeEnv[Any, Any]):
    """Run as many replicas of a service as its demand needs, in time, and no more.

    ## Description
    A service answers requests whose number changes over the day, with noise and bursts. Each step
    (a minute) adds or removes replicas, which are paid from then on and serve some steps later.
    With too few replicas requests wait, time out or are dropped; too many cost money. Latencies
    are those of an M/M/c queue. Demand is drawn at reset and no action changes it: episodes with
    equal seeds face equal demand.

    ## Action Space
    - `action="scaling"` (default): `Discrete(7)`: add -4, -2, -1, 0, 1, 2 or 4 replicas.
    - `"scaling_config"`: `Discrete(49)`: 7 times that, plus a change of configuration: batch size
      down, up, timeout down, up, concurrency down, up, none.
    - `"flat"`: `Discrete(539)`: 11 times that, plus the share of traffic in tenths that stays; the
      rest goes to a second region, which has room for all, is further away, and has a price.
    - `"multi"`: `MultiDiscrete([7, 7, 11])`: the same as three choices.
    - `"replicas"`: `Discrete(max_replicas - min_replicas + 1)`: the desired number of replicas,
      `min_replicas` + the action, as horizontal autoscalers define it.
    - `"target"`: `Discrete(15)`: a target utilisation of 30, 35, ... 100 % for the load of the last
      step; operators of autoscalers set it once, here each step chooses it.

    Replicas that start up count, and are the first to be removed. The number stays between
    `min_replicas` and `max_replicas`. With `constraints` (default) it changes by at most half, or
    2 if that is more, and not for `cooldown_steps` after a change. An action that asks for more is
    clipped to what is allowed, and `info["constrained"]` is true.

    `grpo_gym.envs.autoscaler.actions` has `encode` and `decode` between the kinds.

    ## Observation Space
    `Box(-1, 1, (M,), float32)`: the measurements of the last step, scaled from their smallest to
    their largest value, and what is known:

    | Num | Meaning                             | Unit       | -1 is | 1 is    |
    |-----|-------------------------------------|------------|-------|---------|
    | 0   | processor use                       | %          | 0     | 100     |
    | 1   | memory use                          | %          | 0     | 100     |
    | 2   | network traffic                     | Mbit/s     | 0     | 10,000  |
    | 3   | disk operations                     | 1/s        | 0     | 100,000 |
    | 4   | median latency                      | ms         | 0     | 1,000   |
    | 5   | 99th percentile of latency          | ms         | 0     | 10,000  |
    | 6   | requests                            | 1/s        | 0     | 100,000 |
    | 7   | errors                              | % requests | 0     | 100     |
    | 8   | requests that wait                  | 1          | 0     | 10,000  |
    | 9   | replicas that served                | 1          | 0     | 100     |
    | 10  | replicas that start up              | 1          | 0     | 100     |
    | 11  | sine of the time of day             | 1          | -1    | 1       |
    | 12  | cosine of the time of day           | 1          | -1    | 1       |

    Number 10 only with `observe_pending`, 11 and 12 with `observe_time`; then sine and cosine of
    the time of the week, where demand follows it; then, where actions change them, the positions
    of batch size, timeout and concurrency between their extremes, and the share of traffic.

    With `history=H` it is a `Dict` of that, `current_metrics`, and `metrics_history`,
    `Box(-1, 1, (H, 10), float32)`: the metrics of the last H steps, oldest first; the first of an
    episode stands for those before it.

    ## Rewards
    - `chapter` (default): 0.3 cost + 0.3 performance + 0.25 reliability + 0.15 efficiency.
      Cost: savings since the last step / 1000 $/h, and 0.1 if under 800 $/h. Performance: the mean
      of 200 ms / p99 - 1, in [-1, 0.5], and the share of demand served - 0.9. Reliability: 0.5 up
      to 0.1 % errors, then the mean of 1 - e^excess and -10 times the excess as a share, at least
      -2. Efficiency: a bell around a mean processor and memory use of 70 %, minus 0.3 below 30 %,
      0.5 above 90 %. The components are in the infos.
    - `dollars`: minus replicas, second region, 10 $ for each step with a p99 above 200 ms, and
      0.001 $ for each request without an answer in time.

    ## Starting State
    Midnight (a random step with `random_start` or a CSV file), with as many replicas as use 70 %,
    no backlog.

    ## Episode End
    Truncation after `episode_steps`: the service goes on.

    ## Information
    After each step and reset: `p50_latency_ms`, `p99_latency_ms`, `error_percent`, `cpu_percent`,
    `memory_percent`, `replicas`, `pending`, `demand` (requests/s) and `backlog` (requests), after a
    reset those of the minute before; and with `constraints` `action_mask` (int8, one entry per
    choice; of "multi" the 7 + 7 + 11 side by side).

    After each step, its requests: `arrivals` + `retried` = `served` + `failed` + `timed_out` +
    `dropped` + `overflow` (to the second region) + the change of `backlog`; `lost`, those that
    nobody tries again; `cost_dollars` (replicas and second region), `penalty_dollars`; `violation`
    (p99 above `sla_p99_ms`); `constrained`; and `reward_cost`, `reward_performance`,
    `reward_reliability`, `reward_efficiency`.

    ## Arguments
    `preset` names a task (`diurnal`, `diurnal-target`, `diurnal-joint`, `bursty`, `flash-crowd`,
    `weekly`, `constant`), which may set the kind of actions, the constraints and the reward too;
    every other keyword overrides one field of
    `grpo_gym.envs.autoscaler.presets.AutoScalerConfig`:
    ```python
    gym.make("AutoScaler-v0", preset="bursty", action="flat", history=60)
    ```

    ## Version History
    - v0: first version.
    """

    task = TASK
    config: AutoScalerConfig
    simulator: AutoScalerSimulator

    def action_masks(self) -> np.ndarray:
        """Safe actions, shape (A,), bool; sb3-contrib's MaskablePPO calls this."""
        return self.simulator.action_masks()[0].astype(np.bool_)
