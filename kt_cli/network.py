"""HTTP clients as the environment wants them: proxies, exceptions from them, certificates.

httpx reads these variables itself, but ends with a Python error where one is odd: a SOCKS proxy
without its package, a certificate file that is gone; and it knows no networks in NO_PROXY.
"""

from __future__ import annotations

import os
import re
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from kt_cli import environment
from kt_cli.environment import Environ
from kt_cli.errors import EnvironmentBroken, UsageError

if TYPE_CHECKING:
    import ssl

    import httpx

_FILES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
_FOLDER = "SSL_CERT_DIR"
_SCHEMES = ("http", "https", "socks5", "socks5h")


class Proxy(NamedTuple):
    url: str
    variable: str
    """Where it stands."""

    @property
    def socks(self) -> bool:
        return self.url.startswith("socks")


def client(environ: Environ = os.environ, http: Any = None, **options: Any) -> httpx.Client:
    """A client of httpx whose every request, redirected ones too, goes the way of `environ`.

    `http` is httpx, or a package with the same interface. Requests raise UsageError or
    EnvironmentBroken that names a variable which is wrong.
    """
    import httpx

    http = http or httpx

    class Routed(http.BaseTransport):  # type: ignore[misc]
        """One transport for each proxy and kind of address, made when it is needed."""

        def __init__(self) -> None:
            self._ways: dict[tuple[Proxy | None, bool], httpx.BaseTransport] = {}

        def handle_request(self, request: httpx.Request) -> httpx.Response:
            url = str(request.url)
            way = proxy_for(url, environ), request.url.scheme == "https"
            if way not in self._ways:
                self._ways[way] = _transport(http, *way, environ)
            return self._ways[way].handle_request(request)

        def close(self) -> None:
            for way in self._ways.values():
                way.close()

    routed: httpx.Client = http.Client(transport=Routed(), trust_env=False, **options)
    return routed


def proxy_for(url: str, environ: Environ = os.environ) -> Proxy | None:
    """None for this machine itself and for what NO_PROXY names. Raises UsageError."""
    parts = urlsplit(url)
    host = (parts.hostname or "").lower()
    port = parts.port or (443 if parts.scheme == "https" else 80)
    if _is_loopback(host) or bypassed(host, port, _either("no_proxy", environ)[0]):
        return None
    for name in (f"{parts.scheme}_proxy", "all_proxy"):
        value, variable = _either(name, environ)
        if value:
            return Proxy(_checked(value, variable), variable)
    return None


def bypassed(host: str, port: int, names: str) -> bool:
    """Whether one of `names` (NO_PROXY) means this host: a name with the domains below it, an
    address, a network such as 10.0.0.0/8 or fd00::/8, each with a port if wanted, or `*`."""
    return any(_means(entry, host, port) for entry in re.split(r"[,\s]+", names.lower()) if entry)


def _means(entry: str, host: str, port: int) -> bool:
    if entry == "*":
        return True
    name, wanted = _split_port(entry)
    if wanted and wanted != port:
        return False
    try:
        network = ip_network(name.strip("[]"), strict=False)
    except ValueError:
        name = name.removeprefix("*").removeprefix(".")
        return bool(name) and (host == name or host.endswith(f".{name}"))
    try:
        return ip_address(host) in network
    except ValueError:
        return False


def _split_port(entry: str) -> tuple[str, int]:
    """`name:80`, `[::1]:80`; an IPv6 address without brackets has no port."""
    found = re.fullmatch(r"(\[[^\]]*\]|[^:]*):([0-9]{1,5})", entry)
    return (found[1], int(found[2])) if found else (entry, 0)


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _either(name: str, environ: Environ) -> tuple[str, str]:
    """The value in small letters or in capitals, and the variable it came from."""
    small, capitals = environment.text(name, environ), environment.text(name.upper(), environ)
    return (small, name) if small else (capitals, name.upper())


def _checked(value: str, variable: str) -> str:
    """The address of a proxy; the error does not show it, for it may hold a password."""
    url = value if "://" in value else f"http://{value}"
    scheme, _, rest = url.partition("://")
    scheme = "socks5" if scheme.lower() == "socks" else scheme.lower()
    try:
        parts = urlsplit(f"{scheme}://{rest}")
        valid = scheme in _SCHEMES and bool(parts.hostname) and parts.port != 0
        valid = valid and rest.isascii() and rest.isprintable() and " " not in rest
    except ValueError:
        valid = False
    if not valid:
        kinds = ", ".join(f"{known}://" for known in _SCHEMES)
        fix = f"write it as http://host:port ({kinds}), or unset it"
        raise UsageError(f"{variable} is not the address of a proxy", "", fix)
    return f"{scheme}://{rest}"


def _transport(
    http: Any, proxy: Proxy | None, secure: bool, environ: Environ
) -> httpx.BaseTransport:
    verify = certificates(environ) if secure else False
    try:
        made: httpx.BaseTransport = http.HTTPTransport(verify=verify, proxy=proxy and proxy.url)
        return made
    except ImportError as error:
        name = proxy.variable if proxy else "ALL_PROXY"
        raise EnvironmentBroken(
            f"{name} names a SOCKS proxy, and the package for it is not installed",
            "httpx speaks SOCKS through the package socksio",
            "run `pip install socksio`, or set HTTPS_PROXY to an HTTP proxy",
        ) from error


def certificates(environ: Environ = os.environ) -> ssl.SSLContext:
    """What servers are trusted by. Raises EnvironmentBroken that names the variable."""
    import ssl

    import httpx

    for name in (*_FILES, _FOLDER):
        if value := environment.text(name, environ):
            place = Path(value).expanduser()
            try:
                folder = place.is_dir()
                where = {"capath": str(place)} if folder else {"cafile": str(place)}
                return ssl.create_default_context(**where)  # type: ignore[arg-type]
            except (OSError, ValueError) as error:
                why = getattr(error, "strerror", "") or str(error) or "it cannot be read"
                fix = f"set {name} to a file of certificates, or unset it"
                what = f"{name} names no certificates: {value}"
                raise EnvironmentBroken(what, why, fix) from error
    trusted: ssl.SSLContext = httpx.create_ssl_context(trust_env=False)
    return trusted
