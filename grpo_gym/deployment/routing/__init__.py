"""Routing of real requests: one core for the embedded proxy and for the picker beside Envoy."""
