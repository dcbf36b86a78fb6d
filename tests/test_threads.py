"""The number of torch's threads before a model is made must not show in its weights."""

import torch

from grpo_gym import GRPO


def test_weights_do_not_depend_on_threads_before() -> None:
    hashes = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        hashes.append(GRPO("mlp", "LoadBalancer-v0", seed=0).weights_sha256())
        assert torch.get_num_threads() == 1
    assert hashes[0] == hashes[1]
