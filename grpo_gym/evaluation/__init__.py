"""Whole episodes of given seeds, and their statistics."""
