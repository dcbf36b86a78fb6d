"""Many processes that train one policy, with the result of one; docs/how_to/processes.md."""

from grpo_gym.trainers.processes.errors import ProcessError
from grpo_gym.trainers.processes.interface import ALONE, Processes, check_size, deal

__all__ = ["ALONE", "ProcessError", "Processes", "check_size", "deal"]
