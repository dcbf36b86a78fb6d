"""What `grpo-gym benchmark` measures: rates, peers, this machine's ceilings, and growing costs."""
