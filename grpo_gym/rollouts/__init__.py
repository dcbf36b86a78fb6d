"""Environments side by side, in groups, and what a policy does in them."""
