"""Load balancing: route each request of a stream to one of N servers."""
