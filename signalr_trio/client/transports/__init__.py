"""The transports of the client: WebSockets, server-sent events, long polling; and stateful ones."""
