"""The client's side of the control socket: find it, ask, read the answer.

Promises: whatever goes wrong is a RemoteError of one line that names the place and the remedy; an answer that breaks
off is one of them. Refuses to print.

For one thread; a `Connection` serves one request after another.
"""

from __future__ import annotations

import os
import select
import socket
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Self

from ..config import ConfigError
from . import control_lines
from .control_place import places_of_file

# The master answers within a millisecond, unless it forks or reads a configuration.
_PATIENCE: Final = 10.0
_CREDENTIALS: Final = struct.Struct("3i")  # struct ucred: pid, uid, gid (unix(7))


class RemoteError(Exception):
    """One line: what is wrong, where, and what to do."""


def after_mistake(source: Path, environ: Mapping[str, str], error: ConfigError) -> list[Path]:
    """Where the daemon may be whose configuration has become wrong since it began: that must not keep a person from
    asking it. Raises `error` when nobody is there."""
    found = [place for place in places_of_file(source, environ) if place.is_socket()]
    if not found:
        raise error
    return found


class Connection:
    """A connection to a master. `pid` is the master's, 0 when it cannot be known from here."""

    def __init__(self, sock: socket.socket, path: Path) -> None:
        self._sock = sock
        self._path = path
        self.pid: int = _CREDENTIALS.unpack(
            sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        )[0]

    def ask(
        self, do: str, *, patience: float | None = _PATIENCE, **fields: object
    ) -> Iterator[dict[str, Any]]:
        """Every object of the answer; the last has "ok": True. Raises RemoteError, with the error that it names.

        `patience`: seconds for each further line; None for ever.
        """
        self._sock.settimeout(patience)
        answer: dict[str, Any] = {}
        try:
            self._sock.sendall(control_lines.request(do, **fields))
        except BrokenPipeError, ConnectionResetError:
            pass  # it has said why before it closed
        except TimeoutError:
            raise self._silent() from None
        try:
            for answer in control_lines.answers(self._received()):
                if answer.get("ok") is False:
                    raise RemoteError(str(answer.get("error")))
                yield answer
        except ValueError as error:
            raise RemoteError(
                f"what answers at {self._path} is no serverd of this version ({error})"
            ) from None
        if "ok" not in answer:
            raise RemoteError(
                f"the daemon at {self._path} has ended, or closed the connection, before it answered"
            )

    def wait_gone(self) -> None:
        """Until the master's process has exited, if that can be seen from here."""
        try:
            pidfd = os.pidfd_open(self.pid)
        except OSError, ValueError:  # it is gone, or in another namespace
            return
        try:
            select.select([pidfd], [], [])
        finally:
            os.close(pidfd)

    def close(self) -> None:
        """End it."""
        self._sock.close()

    def _received(self) -> Iterator[bytes]:
        while True:
            try:
                data = self._sock.recv(65536)
            except ConnectionResetError:
                return
            except TimeoutError:
                raise self._silent() from None
            if not data:
                return
            yield data

    def _silent(self) -> RemoteError:
        return RemoteError(
            f"the daemon at {self._path} (pid {self.pid}) does not answer; is it stopped, or stuck?"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def connect(paths: list[Path]) -> Connection:
    """To the first of `paths` where somebody listens. Raises RemoteError."""
    refused: OSError | None = None
    for path in paths:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(_PATIENCE)
        try:
            sock.connect(os.fspath(path))
        except (FileNotFoundError, NotADirectoryError, ConnectionRefusedError) as error:
            sock.close()
            del error
        except OSError as error:
            sock.close()
            refused = refused or _named(error, path)
        else:
            return Connection(sock, path)
    if isinstance(refused, PermissionError):
        remedy = "be root, or the user that serverd runs as"
        raise RemoteError(f"permission denied at {refused.filename}; {remedy}")
    if refused is not None:
        raise RemoteError(f"cannot connect to {refused.filename}: {refused.strerror or refused}")
    raise RemoteError(
        f"nobody listens at {paths[0]}; is serverd running? (--control PATH names another socket)"
    )


def ask_once(paths: list[Path], do: str, **fields: bool | int) -> dict[str, Any]:
    """The last object of the answer. Raises RemoteError."""
    with connect(paths) as connection:
        *_, last = connection.ask(do, patience=_PATIENCE, **fields)
    return last


def _named(error: OSError, path: Path) -> OSError:
    error.filename = os.fspath(path)
    return error
