"""The command line: what the scripts and the `grpo-gym` command call."""
