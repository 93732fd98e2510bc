"""Clients, hub servers and whole clusters in memory, on trio's clock: no sockets, no real time."""
