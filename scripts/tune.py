"""See `python scripts/tune.py --help`; the same as `grpo-gym tune`."""

import sys

from grpo_gym.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["tune", *sys.argv[1:]]))
