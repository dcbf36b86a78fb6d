"""The admin port: metrics, health, status page and commands, on loopback."""
