import torch
from hypothesis import given
from hypothesis import strategies as st

from grpo_gym.policies.normaliser import RunningNormaliser


def data(rows: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    scale, shift = torch.tensor([1.0, 100.0, 1e-2]), torch.tensor([0.0, 1e4, -3.0])
    return torch.randn(rows, 3, generator=generator) * scale + shift


@given(cuts=st.lists(st.integers(0, 200), max_size=6).map(sorted))
def test_statistics_do_not_depend_on_how_the_data_is_split(cuts: list[int]) -> None:
    everything = data(200)
    normaliser = RunningNormaliser(3)
    for start, stop in zip([0, *cuts], [*cuts, 200], strict=True):
        normaliser.update(everything[start:stop])  # some parts are empty
    wanted = everything.double()
    assert float(normaliser.count) == 200.0
    torch.testing.assert_close(normaliser.mean, wanted.mean(dim=0), rtol=1e-12, atol=1e-12)
    variance = normaliser.sum_of_squares / normaliser.count
    torch.testing.assert_close(variance, wanted.var(dim=0, correction=0), rtol=1e-9, atol=0)


def test_output_has_mean_zero_and_deviation_one() -> None:
    everything = data(5_000)
    normaliser = RunningNormaliser(3)
    normaliser.update(everything)
    normalised = normaliser(everything)
    torch.testing.assert_close(normalised.mean(dim=0), torch.zeros(3), atol=1e-3, rtol=0)
    torch.testing.assert_close(normalised.std(dim=0), torch.ones(3), atol=1e-3, rtol=0)
    assert normalised.dtype == torch.float32


def test_nothing_seen_leaves_observations_as_they_are() -> None:
    normaliser = RunningNormaliser(3)
    values = torch.tensor([[0.5, -3.0, 9.0]])
    assert torch.equal(normaliser(values), values)
    normaliser.update(torch.empty(0, 3))
    assert torch.equal(normaliser(values), values)


def test_constant_features_stay_as_they_are() -> None:
    normaliser = RunningNormaliser(2)
    normaliser.update(torch.tensor([[0.1, 1.0], [0.1, 3.0], [0.1, 5.0]]))
    normalised = normaliser(torch.tensor([[0.1, 3.0], [0.2, 3.0]]))
    torch.testing.assert_close(normalised, torch.tensor([[0.1, 0.0], [0.2, 0.0]]))


def test_outliers_are_clipped() -> None:
    normaliser = RunningNormaliser(1, clip=5.0)
    normaliser.update(torch.tensor([[-1.0], [1.0]]))
    assert normaliser(torch.tensor([[100.0], [-100.0], [2.0]])).tolist() == [[5.0], [-5.0], [2.0]]


def test_saved_and_restored_it_goes_on_as_before() -> None:
    first = RunningNormaliser(3)
    first.update(data(50))
    second = RunningNormaliser(3)
    second.load_state_dict(first.state_dict())
    probe = data(5, seed=1)
    assert torch.equal(second(probe), first(probe))
    for normaliser in (first, second):
        normaliser.update(data(70, seed=2))
    assert torch.equal(second(probe), first(probe))
    assert float(second.count) == 120.0


def test_it_has_nothing_to_learn() -> None:
    normaliser = RunningNormaliser(3)
    assert list(normaliser.parameters()) == []
    normaliser.update(data(50).requires_grad_())
    assert not normaliser.mean.requires_grad
