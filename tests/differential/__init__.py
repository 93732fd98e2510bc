"""ASP.NET Core SignalR against this project: the same scripts, and what a client sees of them."""
