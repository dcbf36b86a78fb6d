"""A picker of endpoints beside Envoy."""
