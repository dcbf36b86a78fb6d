"""Which baselines the closing table shows."""

from grpo_gym.trainers.named_policies import baseline_names, table_names


def test_tables_have_the_baselines_that_can_play() -> None:
    small = table_names("Battleship-v0", {"preset": "uniform-5x5"})
    assert {"exact_posterior", "monte_carlo_posterior"} <= set(small)
    large = table_names("Battleship-v0", {})
    assert set(small) - set(large) == {"exact_posterior", "monte_carlo_posterior"}
    assert table_names("LoadBalancer-v0", {}) == baseline_names("LoadBalancer-v0")
    assert table_names("CartPole-v1", {}) == ["random"]
