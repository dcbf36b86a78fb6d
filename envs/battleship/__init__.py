"""Battleship: find a hidden fleet in as few shots as possible."""
