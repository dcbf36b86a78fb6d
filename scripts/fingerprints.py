import sys, subprocess
sys.exit(subprocess.call([sys.executable, "tests/fingerprints.py", *[a for a in sys.argv[1:] if a not in ("--check","--out","docs/results/fingerprints.json")]]))
