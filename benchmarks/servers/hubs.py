"""Our hubs: the same, by path and method, that the .NET peer has for measurements."""

from __future__ import annotations

from typing import Any

from signalr_trio import Hub, HubServer, Identity, NegotiateRequest

__all__ = ["Bench", "identify", "map_hubs"]


class Bench(Hub):
    async def echo(self, text: str) -> str:
        return text

    async def bcast(self, text: str) -> None:
        await self.clients.all.send("bcast", text)


class Other(Hub):
    async def join(self, group: str) -> None:
        await self.groups.add_to_group(self.context.connection_id, group)

    async def send_to_group(self, group: str, text: str) -> None:
        await self.clients.group(group).send("group", group, text)


class Test(Hub):
    async def send_to(
        self, kind: str, keys: list[str], excludes: list[str], target: str, args: list[Any]
    ) -> None:
        audience = self.clients.users if kind == "Users" else self.clients.clients
        await audience(keys).send(target, *args)


def map_hubs(server: HubServer) -> HubServer:
    server.map(Bench, "/bench")
    server.map(Other, "/other")
    server.map(Test, "/test")
    return server


def identify(request: NegotiateRequest) -> Identity:
    return Identity(request.param("user"))
