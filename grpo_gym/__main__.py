"""`python -m grpo_gym` is the `grpo-gym` command."""

import sys

from grpo_gym.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
