"""Connection strings, and the URLs and audiences that follow from them.

``Endpoint=http://localhost;Port=8888;AccessKey=...;Version=1.0;`` as Azure SignalR Service writes
them: keys in any case, an optional ``Port`` that replaces the one of the endpoint, and
``ClientEndpoint`` and ``ServerEndpoint`` where clients or servers are to take another road.
"""

from __future__ import annotations

import re
from urllib.parse import quote, urlsplit

import attrs

from signalr_trio.errors import ConfigurationError

__all__ = ["DEVELOPMENT", "Endpoint", "parse_connection_string"]

#: The connection string of the official emulator: the default of the service, never a secret.
DEVELOPMENT = (
    "Endpoint=http://localhost;Port=8888;"
    "AccessKey=ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789ABCDEFGH;Version=1.0;"
)

_VERSION = re.compile(r"1\.\d+.*")
_KNOWN = {"endpoint", "accesskey", "port", "clientendpoint", "serverendpoint", "version"}
_ENTRA = {"authtype", "clientid", "tenantid", "clientsecret", "clientcert"}


@attrs.frozen
class Endpoint:
    """Where a service is, and the key that signs what is said to it."""

    url: str
    """``http://host[:port]``, maybe a path, no slash at the end."""
    access_key: str = attrs.field(repr=False)
    client_url: str | None = None
    server_url: str | None = None

    @property
    def port(self) -> int:
        parts = urlsplit(self.url)
        return parts.port or (443 if parts.scheme == "https" else 80)

    def client_audience(self, hub: str) -> str:
        """The audience of client tokens: without the port, never a custom endpoint."""
        return f"{self._audience}/client/?hub={hub}"

    def server_audience(self, hub: str) -> str:
        return f"{self._audience}/server/?hub={hub}"

    def client_negotiate_url(self, hub: str, query: str = "") -> str:
        """The URL that an app's negotiate sends its clients to."""
        url = f"{self.client_url or self.url}/client/?hub={quote(hub, safe='')}"
        return f"{url}&{query}" if query else url

    def server_connection_url(self, hub: str, cid: str, target: str | None = None) -> str:
        url = f"{self.server_url or self.url}/server/?hub={quote(hub, safe='')}&cid={cid}"
        return f"{url}&target={quote(target, safe='')}" if target else url

    @property
    def _audience(self) -> str:
        parts = urlsplit(self.url)
        host = parts.hostname or ""
        return f"{parts.scheme}://{f'[{host}]' if ':' in host else host}"


def parse_connection_string(text: str) -> Endpoint:
    """Reads a connection string.

    Raises ConfigurationError that names the part at fault; the access key is never in the message.
    """
    values = _split(text)
    if "endpoint" not in values:
        raise ConfigurationError("connection string: 'Endpoint' is missing")
    if (entra := _ENTRA & values.keys()) and not values.get("accesskey"):
        names = ", ".join(sorted(entra))
        raise ConfigurationError(
            f"connection string: {names}: Entra ID is not supported, give an AccessKey"
        )
    if not values.get("accesskey"):
        raise ConfigurationError("connection string: 'AccessKey' is missing")
    version = values.get("version")
    if version is not None and not _VERSION.fullmatch(version):
        raise ConfigurationError(f"connection string: Version must be 1.x, not {version!r}")
    return Endpoint(
        url=_with_port(_http_url("Endpoint", values["endpoint"]), values.get("port")),
        access_key=values["accesskey"],
        client_url=_optional_url("ClientEndpoint", values),
        server_url=_optional_url("ServerEndpoint", values),
    )


def _split(text: str) -> dict[str, str]:
    values: dict[str, str] = {}
    for part in text.split(";"):
        name, separator, value = part.partition("=")
        key = name.strip().lower()
        if not separator or not key:
            continue
        if key in values:
            raise ConfigurationError(f"connection string: {name.strip()!r} is given twice")
        if key not in _KNOWN | _ENTRA:
            raise ConfigurationError(f"connection string: {name.strip()!r} is not a known key")
        values[key] = value.strip()
    return values


def _http_url(name: str, url: str) -> str:
    # The value stays out of the message: where a semicolon is missing it holds the key as well.
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        raise ConfigurationError(f"connection string: {name} has a bad host or port") from None
    # A path is somebody's proxy; behind a query or a fragment no path could be put.
    more = parts.query or parts.fragment or "@" in parts.netloc
    if parts.scheme not in ("http", "https") or not parts.hostname or more:
        raise ConfigurationError(
            f"connection string: {name} must be http://host[:port] or https://host[:port]"
        )
    return url.rstrip("/")


def _optional_url(name: str, values: dict[str, str]) -> str | None:
    url = values.get(name.lower())
    return _http_url(name, url) if url else None


def _with_port(url: str, port: str | None) -> str:
    if not port:
        return url
    if not port.isascii() or not port.isdigit() or not 1 <= int(port) <= 65535:
        raise ConfigurationError(f"connection string: Port must be 1 to 65535, not {port!r}")
    parts = urlsplit(url)
    host = parts.hostname or ""
    netloc = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return parts._replace(netloc=netloc).geturl()
