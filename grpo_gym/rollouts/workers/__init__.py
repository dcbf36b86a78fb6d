"""Environments of others, stepped in processes of their own that may crash or hang."""
