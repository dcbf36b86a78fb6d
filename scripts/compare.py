"""See `python scripts/compare.py --help`; the same as `grpo-gym compare`."""

import sys

from grpo_gym.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["compare", *sys.argv[1:]]))
