"""See `python scripts/benchmark.py --help`; the same as `grpo-gym benchmark`."""

import sys

from grpo_gym.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["benchmark", *sys.argv[1:]]))
