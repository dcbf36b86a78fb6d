"""Routing rules, by what they are made of; `baselines` has them by name."""
