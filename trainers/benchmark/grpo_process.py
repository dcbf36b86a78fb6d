"""A whole process that trains GRPO until two evaluations in a row reach a target.

    python grpo_process.py TASK        # TASK: JSON, see `peers.processes_of_pair`

Prints, as JSON, the environment steps and whether the target was reached.
"""

import json
import sys
from typing import Any


def main(task: dict[str, Any]) -> dict[str, Any]:
    """Train; the import of torch and of this package counts."""
    from dataclasses import replace

    from grpo_gym.trainers.experiments import shipped_settings
    from grpo_gym.trainers.grpo import GRPO, IterationStats
    from grpo_gym.trainers.settings import new_model

    last, successes = 0, 0

    def stop(model: GRPO, stats: IterationStats) -> bool:
        nonlocal last, successes
        if stats.num_steps - last >= task["every"]:
            last = stats.num_steps
            played = model.evaluate(task["episodes"], seed=task["first_episode"])
            successes = successes + 1 if played.mean_return >= task["target"] else 0
        return successes < 2

    settings = shipped_settings(task["env"])
    model = new_model(replace(settings, grpo=replace(settings.grpo, seed=task["seed"])))
    with model:
        model.learn(task["total_steps"]["grpo"], callback=stop)
    return {"steps": model.num_steps, "reached": successes == 2}


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))
