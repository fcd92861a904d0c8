"""`serverd unit`: a systemd unit for this configuration, this interpreter and this machine.

The hardened template in the folder systemd/ is the starting point; only the directives that the configuration
decides are filled in: what is run, how long starting and stopping may take, who it runs as, and which folders it
needs. `fill_in` is pure but for looking at the modes of folders; it starts nothing and installs nothing.

Sources: systemd.service(5), systemd.exec(5); quoting as in "Command lines" there.
"""

import math
import os
import re
import stat
import sys
from collections.abc import Iterable, Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Final

from ..config import ListenAddress, ServerConfig, SystemdAddress, TcpAddress, UnixAddress
from ..config.layers import absolute

# What systemd hides with ProtectHome=yes.
_HOMES: Final = (Path("/home"), Path("/root"), Path("/run/user"))
_START_MARGIN: Final = 30.0  # seconds beyond timeouts.boot, for the master itself
_STOP_MARGIN: Final = 15.0  # seconds beyond timeouts.graceful, for lifespan shutdown
_FIRST_FREE_PORT: Final = 1024
_UNQUOTED: Final = re.compile(r"[\w@%+=:,./$-]+")


def unit(config: ServerConfig, overrides: Sequence[str]) -> int:
    """Print the unit to standard output, and what else is needed to standard error; returns the exit status."""
    template = files("serverd").joinpath("systemd", "serverd.service").read_text(encoding="utf-8")
    sys.stdout.write(fill_in(template, config, overrides, python=Path(sys.executable)))
    sys.stdout.flush()
    for note in notes(config):
        print(f"serverd unit: {note}", file=sys.stderr)  # noqa: T201 - said to a person, beside the unit
    return 0


def fill_in(template: str, config: ServerConfig, overrides: Sequence[str], *, python: Path) -> str:
    """The text of the unit. `config.source` must be set: a service needs its configuration in a file.

    `overrides` are the command line's `key=value`; relative paths in them start at the current directory.
    """
    assert config.source is not None
    unit_file = UnitFile(template)
    unit_file.header = [
        f"# Written by: serverd unit -c {config.source}",
        "#",
        "#   install it as /etc/systemd/system/serverd.service, then:",
        "#   systemctl daemon-reload && systemctl enable --now serverd",
    ]
    command = [str(python), "-P", "-m", "serverd", "-c", str(config.source)]
    for text in absolute(overrides, Path.cwd()):
        command += ["--set", text]
    unit_file.put("Unit", "Description", f"serverd: {config.app} ({config.source})".replace("%", "%%"))
    unit_file.put("Service", "ExecStart", " ".join(map(_argument, command)))
    unit_file.put("Service", "TimeoutStartSec", _limit(config.timeouts.boot, _START_MARGIN))
    unit_file.put("Service", "TimeoutStopSec", _limit(config.timeouts.graceful, _STOP_MARGIN))
    for section, name, value in _identity(config):
        unit_file.put(section, name, value)
    if any(_in_home(path) for path in _read_paths(config)):
        unit_file.put("Service", "ProtectHome", "read-only")
    for name, value in _folders(config):
        unit_file.add("Service", name, value)
    if any(isinstance(address, SystemdAddress) for _, address in _addresses(config)):
        unit_file.add("Unit", "Requires", "serverd.socket")
        unit_file.add("Unit", "After", "serverd.socket")
    return unit_file.text()


def notes(config: ServerConfig) -> Iterator[str]:
    """What the unit alone does not settle, one line each."""
    for key, address in _addresses(config):
        if isinstance(address, TcpAddress) and 0 < address.port < _FIRST_FREE_PORT:
            yield f"port {address.port} needs a privilege; let systemd open it: listen: [systemd], with serverd.socket"
        if isinstance(address, SystemdAddress):
            yield f"{key}: {address} needs serverd.socket installed beside this unit"
    if config.process.user is None:
        for path in dict.fromkeys(_read_paths(config)):
            if closed := _closed_folder(path):
                yield f"{closed} is closed to other users, and the service has a user of its own; set process.user"
                break


class UnitFile:
    """A unit file as lines, with single directives replaced or added; comments and order stay."""

    def __init__(self, text: str) -> None:
        lines = text.splitlines()
        start = next((number for number, line in enumerate(lines) if line.startswith("[")), 0)
        self.header = lines[:start]
        self._body = lines[start:]

    def put(self, section: str, name: str, value: str) -> None:
        """Set the directive where the template has it, else at the end of the section."""
        begin, end = self._section(section)
        for number in range(begin, end):
            if self._body[number].startswith(f"{name}="):
                self._body[number] = f"{name}={value}"
                return
        self.add(section, name, value)

    def add(self, section: str, name: str, value: str) -> None:
        """One more directive at the end of the section."""
        _, end = self._section(section)
        self._body.insert(end, f"{name}={value}")

    def text(self) -> str:
        """The whole file."""
        return "\n".join([*self.header, "", *self._body]) + "\n"

    def _section(self, section: str) -> tuple[int, int]:
        """The first line of the section's content, and the line after the last that is not blank."""
        begin = self._body.index(f"[{section}]") + 1
        end = begin
        for number in range(begin, len(self._body)):
            if self._body[number].startswith("["):
                break
            if self._body[number].strip():
                end = number + 1
        return begin, end


def _addresses(config: ServerConfig) -> Iterator[tuple[str, ListenAddress]]:
    """Where it listens, each with its key."""
    for address in config.listen:
        yield "listen", address
    if config.admin is not None:
        yield "admin.listen", config.admin.listen


def _identity(config: ServerConfig) -> Iterator[tuple[str, str, str]]:
    process = config.process
    if process.user is not None:
        yield "Service", "DynamicUser", "no"
        yield "Service", "User", process.user
    if process.group is not None:
        yield "Service", "Group", process.group
    if process.umask is not None:
        yield "Service", "UMask", f"{process.umask:04o}"


def _folders(config: ServerConfig) -> Iterator[tuple[str, str]]:
    """The folders in which sockets and the pidfile are made: systemd makes those directly below /run."""
    wanted = [address.path.parent for _, address in _addresses(config) if isinstance(address, UnixAddress)]
    if config.process.pidfile is not None:
        wanted.append(config.process.pidfile.parent)
    for folder in dict.fromkeys(wanted):
        if folder.parent == Path("/run"):
            if folder.name != "serverd":  # the template has that one
                yield "RuntimeDirectory", _quote(folder.name)
        else:
            yield "ReadWritePaths", _quote(str(folder))


def _read_paths(config: ServerConfig) -> Iterable[Path]:
    source = [] if config.source is None else [config.source]
    return [config.app_dir, *source, Path(sys.prefix), Path(sys.base_prefix)]


def _in_home(path: Path) -> bool:
    return any(
        place.is_relative_to(home) for home in _HOMES for place in (path, Path(os.path.realpath(path)))
    )


def _closed_folder(path: Path) -> Path | None:
    """The first folder on the way to `path` that a stranger may not pass."""
    real = Path(os.path.realpath(path))
    for folder in [*reversed(real.parents), real]:
        try:
            mode = folder.stat().st_mode
        except OSError:
            return None
        if stat.S_ISDIR(mode) and not mode & stat.S_IXOTH:
            return folder
    return None


def _limit(seconds: float, margin: float) -> str:
    return f"{math.ceil(seconds + margin)}s" if seconds else "infinity"


def _argument(word: str) -> str:
    """One word of a command line, where systemd would replace variables too."""
    return _quote(word.replace("$", "$$"))


def _quote(word: str) -> str:
    """One word of a list, with systemd's specifiers (%h) switched off and spaces, quotes and newlines kept."""
    word = word.replace("%", "%%")
    if _UNQUOTED.fullmatch(word):
        return word
    for char, escape in (("\\", "\\\\"), ('"', '\\"'), ("\n", "\\n")):
        word = word.replace(char, escape)
    return f'"{word}"'
