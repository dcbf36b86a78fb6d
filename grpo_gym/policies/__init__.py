"""Policies: networks from flattened observations to action distributions."""
