"""What one value cannot say for itself: keys that contradict each other or the machine.

Each check gives `Finding`s. They look at the file system and the user database, and change nothing.
"""

import grp
import importlib.util
import pwd
from collections.abc import Callable, Iterator
from typing import NamedTuple

from .addresses import ListenAddress, TcpAddress, UnixAddress
from .compound import ThreadRange
from .kinds import show
from .model import ServerConfig
from .source import KeyPath
from .units import format_size


class Finding(NamedTuple):
    """`message` about the key at `path`; `others` are the keys that it follows from as well."""

    path: KeyPath
    message: str
    others: tuple[KeyPath, ...] = ()


def check(config: ServerConfig) -> Iterator[Finding]:
    """Everything that is wrong with `config` as a whole."""
    yield from _places(config)
    yield from _tls(config)
    yield from _listeners(config.listen)
    if config.proxy.protocol:
        yield from _proxies(config)
    if (
        config.admin is not None
        and config.admin.listen in config.listen
        and not _any_port(config.admin.listen)
    ):
        place = config.listen.index(config.admin.listen)
        yield Finding(("admin", "listen"), f"{config.admin.listen} is already listen[{place}]")
    yield from _accounts(config)
    if config.workers.preload and config.workers.start_method == "spawn":
        message = "needs start_method: fork, as fresh interpreters share no import; leave one of the two out"
        yield Finding(("workers", "preload"), message, (("workers", "start_method"),))
    if config.workers.loop == "uvloop" and importlib.util.find_spec("uvloop") is None:
        yield Finding(
            ("workers", "loop"), "uvloop is not installed: pip install 'serverd[uvloop]', or take asyncio"
        )
    if config.workers.mode == "async" and isinstance(config.workers.threads, ThreadRange):
        yield Finding(
            ("workers", "threads"),
            "a range {min, max} is for mode: sync; with mode: async there are no worker threads",
            (("workers", "mode"),),
        )
    if config.limits.line > config.limits.head:
        head = format_size(config.limits.head)
        message = f"expected at most limits.head ({head}), got {format_size(config.limits.line)}"
        yield Finding(("limits", "line"), message, (("limits", "head"),))


def _places(config: ServerConfig) -> Iterator[Finding]:
    if not config.app_dir.is_dir():
        yield Finding(("app_dir",), f"no such directory: {config.app_dir}")
    if config.reload.enabled:
        for index, folder in enumerate(config.reload.dirs):
            if not folder.is_dir():
                yield Finding(("reload", "dirs", index), f"no such directory: {folder}")


def _tls(config: ServerConfig) -> Iterator[Finding]:
    if config.tls is None:
        return
    from .certificates import problems  # noqa: PLC0415 - brings in ssl, which few configurations need

    for path, message in problems(config.tls):
        yield Finding(("tls", *path), message)


def _listeners(addresses: tuple[ListenAddress, ...]) -> Iterator[Finding]:
    first: dict[ListenAddress, int] = {}
    for index, address in enumerate(addresses):
        if not _any_port(address) and first.setdefault(address, index) != index:
            yield Finding(("listen", index), f"{address} is already listen[{first[address]}]")


def _proxies(config: ServerConfig) -> Iterator[Finding]:
    """Listeners that could take no connection, as every peer would have to be trusted."""
    trusted = set(config.proxy.trusted)
    for index, address in enumerate(config.listen):
        unix = isinstance(address, UnixAddress)
        if not unix and not isinstance(address, TcpAddress):
            continue  # what systemd passes may be either
        if not trusted & {"*", "unix"} if unix else not trusted - {"unix"}:
            who = "unix" if unix else "the proxies' addresses"
            message = (
                f"listen[{index}] would take no connection: name {who} in proxy.trusted, or leave this out"
            )
            yield Finding(("proxy", "protocol"), message, (("proxy", "trusted"), ("listen", index)))
            return


def _any_port(address: ListenAddress) -> bool:
    """Whether the kernel chooses a port, another one for each address."""
    return isinstance(address, TcpAddress) and address.port == 0


def _accounts(config: ServerConfig) -> Iterator[Finding]:
    if (user := config.process.user) is not None and not user.isdecimal() and not _exists(pwd.getpwnam, user):
        yield Finding(("process", "user"), f"no such user: {show(user)}")
    if (
        (group := config.process.group) is not None
        and not group.isdecimal()
        and not _exists(grp.getgrnam, group)
    ):
        yield Finding(("process", "group"), f"no such group: {show(group)}")


def _exists(lookup: Callable[[str], object], name: str) -> bool:
    try:
        lookup(name)
    except KeyError:
        return False
    return True
