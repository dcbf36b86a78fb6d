"""Rates of environments, simulators and trainings, measured in turn."""

import itertools

from grpo_gym.trainers.benchmark import growth, rates


def test_works_take_turns_after_a_round_to_warm_up() -> None:
    order: list[str] = []
    seconds = itertools.count(start=1)

    def work(name: str) -> rates.Work:
        def done() -> tuple[int, float]:
            order.append(name)
            return 12, float(next(seconds))

        return done

    found = rates.take_turns({"a": work("a"), "b": work("b")}, repetitions=2)
    assert "".join(order) == "ababab"
    assert found == {"a": [12 / 3, 12 / 5], "b": [12 / 4, 12 / 6]}


def test_every_native_environment_is_measured_in_all_ways() -> None:
    works = rates._works(num_envs=4)
    for env_id in rates.NATIVE:
        ways = {name.removeprefix(env_id) for name in works if name.startswith(env_id)}
        assert {", unwrapped", ", vector, 4", ", simulator alone, 4"} <= ways
    for name in ("Battleship-v0, simulator alone, 4", "AutoScaler-v0, simulator alone, 4"):
        steps, seconds = works[name]()
        assert steps >= 4
        assert seconds >= rates._SECONDS


def test_the_cost_of_a_training_is_that_of_its_parts() -> None:
    small = {"grpo": {"num_groups": 1, "group_size": 2}, "env_kwargs": {"episode_length": 8}}
    cost = growth.training_cost("LoadBalancer-v0", None, small, seconds=0.0)
    assert cost["iterations"] == 1
    whole = cost["collect_us"] + cost["update_us"]
    assert abs(whole * cost["steps_per_second"] - 1e6) < 1.0
    assert cost["peak_memory_mb"] > 50.0
