"""Many processes that train one policy, with the result of one."""

from grpo_gym.trainers.processes.interface import ALONE, Processes, deal

__all__ = ["ALONE", "Processes", "deal"]
