"""Serverless mode: clients are served by webhooks of an application, its *upstreams*.

To the service this is a hub server on memory links: ``serving`` owns the links, one for each hub,
``client`` is one client, ``rules`` says where an event goes, ``webhook`` what is posted and what an
answer means, and ``sender`` posts it (httpcore, the extra ``serverless``).

Source of the protocol: "Upstream endpoints" of the Azure SignalR Service documentation, and the
sources of the official emulator (Azure/azure-signalr) and of the Azure Functions trigger.
"""

from signalr_trio.upstream.rules import Upstream, parse_upstream
from signalr_trio.upstream.serving import open_upstreams

__all__ = ["Upstream", "open_upstreams", "parse_upstream"]
