"""See `python scripts/train.py --help`; the same as `grpo-gym train`."""

import sys

from grpo_gym.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
