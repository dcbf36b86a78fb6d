"""See `python scripts/play.py --help`; the same as `grpo-gym play`."""

import sys

from grpo_gym.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["play", *sys.argv[1:]]))
