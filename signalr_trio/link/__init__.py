"""How service and hub server meet: one *link* for each server connection.

A link is ordered and carries whole service messages. ``websocket`` puts them on a WebSocket, and
``memory`` passes the objects themselves between the two roles in one process.
"""
