"""The addresses a server listens on: `127.0.0.1:8000`, `[::1]:8000`, `unix:/run/app.sock`, `fd://3`,
`systemd`, `systemd:web`.

Parsing is pure: no name is looked up and no socket is opened. An address without a host (`:8000`, `8000`) is
refused, for a server must not be open to the whole network because four characters were left out.
"""

import re
from dataclasses import dataclass
from ipaddress import IPv6Address
from pathlib import Path
from typing import Final

from .errors import BadValue

# sockaddr_un.sun_path is 108 bytes on Linux and ends with a NUL (unix(7)).
LONGEST_UNIX_PATH: Final = 107

_HOST: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9.])?", re.ASCII)
_FD_NAME: Final = re.compile(
    r"[!-9;-~]{1,255}", re.ASCII
)  # sd_listen_fds_with_names(3): printable ASCII without ":"


@dataclass(frozen=True, slots=True)
class TcpAddress:
    """A TCP address. `host` is a name or a numeric address without brackets; `port` 0 lets the kernel choose one."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class UnixAddress:
    """A unix stream socket in the file system."""

    path: Path

    def __str__(self) -> str:
        return f"unix:{self.path}"


@dataclass(frozen=True, slots=True)
class FdAddress:
    """A listening socket that this process inherited under the number `fd`."""

    fd: int

    def __str__(self) -> str:
        return f"fd://{self.fd}"


@dataclass(frozen=True, slots=True)
class SystemdAddress:
    """The sockets passed by systemd (LISTEN_FDS): all of them, or only those with this FileDescriptorName."""

    name: str | None = None

    def __str__(self) -> str:
        return "systemd" if self.name is None else f"systemd:{self.name}"


type ListenAddress = TcpAddress | UnixAddress | FdAddress | SystemdAddress


def parse_address(text: str) -> ListenAddress:
    """The address that `text` names. Raises BadValue with what is expected."""
    scheme, colon, rest = text.partition(":")
    if scheme == "systemd":
        return _systemd(rest if colon else None)
    if scheme == "unix" and colon:
        return _unix(rest)
    if scheme == "fd" and colon:
        return _fd(rest)
    return _tcp(text)


def _systemd(name: str | None) -> SystemdAddress:
    if name is not None and not _FD_NAME.fullmatch(name):
        raise BadValue("expected systemd:NAME, with the FileDescriptorName of a socket unit")
    return SystemdAddress(name)


def _unix(path: str) -> UnixAddress:
    path = path.removeprefix("//") if path.startswith("///") else path
    if not path or path.endswith("/") or path[0] == "@" or "\0" in path:
        raise BadValue(
            "expected unix:PATH, the path of a socket in the file system, such as unix:/run/app.sock"
        )
    length = len(path.encode("utf-8", "surrogateescape"))
    if length > LONGEST_UNIX_PATH:
        raise BadValue(
            f"the path has {length} bytes, and the kernel takes at most {LONGEST_UNIX_PATH} for a unix socket"
        )
    return UnixAddress(Path(path))


def _fd(rest: str) -> FdAddress:
    digits = rest.removeprefix("//")
    if rest == digits or not (digits.isascii() and digits.isdigit()) or len(digits) > 6 or int(digits) < 3:
        raise BadValue("expected fd://N, the number of an inherited socket, at least 3")
    return FdAddress(int(digits))


def _tcp(text: str) -> TcpAddress:
    if "://" in text:
        raise BadValue(f"expected host:port, without {text.partition('://')[0]}://")
    host, colon, port_text = text.rpartition(":")
    if not colon or not host:
        port = port_text if port_text.isascii() and port_text.isdigit() else "8000"
        examples = f"127.0.0.1:{port} (this machine only), 0.0.0.0:{port} (every IPv4 address) or [::]:{port}"
        raise BadValue(f"expected host:port, such as {examples}; or unix:PATH, fd://N, systemd")
    if not (port_text.isascii() and port_text.isdigit()) or len(port_text) > 5 or int(port_text) > 65535:
        raise BadValue("expected host:port with a port from 0 to 65535")
    return TcpAddress(_host(host, port_text), int(port_text))


def _host(host: str, port: str) -> str:
    if host.startswith("[") and host.endswith("]"):
        try:
            return str(IPv6Address(host[1:-1]))
        except ValueError:
            raise BadValue(f"expected an IPv6 address between the brackets, such as [::1]:{port}") from None
    if ":" in host:
        raise BadValue(f"expected an IPv6 address in brackets, such as [::1]:{port}")
    if host == "*":
        raise BadValue(f"expected host:port; for every address write 0.0.0.0:{port} (IPv4) or [::]:{port}")
    if not _HOST.fullmatch(host):
        raise BadValue("expected host:port with a host name or an IP address")
    return host
