"""A whole process that trains PPO of Stable-Baselines3 until a target, as `grpo_process.py` does.

It imports nothing of this package, as somebody's own script would not.
"""

import json
import sys
from typing import Any


def main(task: dict[str, Any]) -> dict[str, Any]:
    """Train; the import of torch and of Stable-Baselines3 counts."""
    import gymnasium as gym
    import torch
    from stable_baselines3 import PPO
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.evaluation import evaluate_policy
    from stable_baselines3.common.logger import Logger
    from stable_baselines3.common.vec_env import DummyVecEnv

    torch.set_num_threads(1)
    played = DummyVecEnv([lambda: gym.make(task["env"])] * task["episodes"])
    last, successes = 0, 0

    class Stop(BaseCallback):  # type: ignore[misc,unused-ignore]
        def _on_rollout_start(self) -> None:
            nonlocal last, successes
            if self.num_timesteps - last >= task["every"]:
                last = self.num_timesteps
                played.seed(task["first_episode"])
                mean, _ = evaluate_policy(self.model, played, task["episodes"], warn=False)
                successes = successes + 1 if mean >= task["target"] else 0

        def _on_step(self) -> bool:
            return successes < 2

    rate = task["settings"]["learning_rate"]
    model = PPO(
        "MlpPolicy",
        DummyVecEnv([lambda: gym.make(task["env"])] * task["num_envs"]),
        seed=task["seed"],
        device="cpu",
        **{**task["settings"], "learning_rate": lambda left: rate * max(left, 0.0)},
    )
    # its own logger would leave an empty folder in the temporary directory
    model.set_logger(Logger(folder=None, output_formats=[]))
    model.learn(task["total_steps"]["ppo"], callback=Stop())
    return {"steps": model.num_timesteps, "reached": successes == 2}


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))
