"""`AutoScaler-v0`: how many replicas to run, and how, for a demand that changes over the day."""
