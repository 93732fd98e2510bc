"""The protocols on the wire, sans-IO: bytes to messages and back, without sockets, clocks or tasks."""
