"""See `python scripts/evaluate.py --help`; the same as `grpo-gym evaluate`."""

import sys

from grpo_gym.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["evaluate", *sys.argv[1:]]))
