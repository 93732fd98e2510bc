"""Client-facing bytes over trio: buffered streams, WebSocket, and the HTTP front door."""
