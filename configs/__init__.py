"""The YAML files that ship with the package, one per environment and task.

This file makes the folder a regular package: without it `grpo_gym.configs` exists in a wheel but
not in an editable install.
"""
