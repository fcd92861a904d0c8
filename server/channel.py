"""The channel between the master and one child: a SOCK_SEQPACKET socketpair that carries small named messages.

Promises: one message is one packet (the kernel keeps the boundaries, see unix(7)), in order, never half of one; the end
of the other side is seen as ``None`` from ``recv``. Up go ``Ready``, ``BootFailed``, ``Worn``, ``StacksAre`` and
``Drained``, down go ``Stacks``, ``Drain`` and ``Stop``; a template of children has its own (``Preloaded``,
``Forked``, and ``Fork`` down), and a child that it has forked waits for ``Begin``. Refuses: anything that is not one
of these messages, or larger than ``MAX_MESSAGE``; numbers of more than 64 bits, and those that are none (NaN,
infinity): the application is in the child, and the master may run as root.

A message is a JSON object, so that a child that was started by another version of serverd can still be understood.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import socket
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from time import sleep
from types import UnionType
from typing import get_args, get_origin, get_type_hints

# The default send buffer of an AF_UNIX socket is 208 KiB (net.core.wmem_default) and a packet must fit into it: two
# texts of 16 Ki characters are at most 128 KiB of UTF-8.
MAX_MESSAGE = 208 * 1024
_MAX_TEXT = 16 * 1024
_LARGEST = 2**63
_INT = array("i")
# A child that leaves hands its connections to at most so many others.
MOST_HEIRS = 8
# What a system call on a channel may say of the machine, and not of the other side.
NO_MEMORY = frozenset({errno.ENOBUFS, errno.ENOMEM})
# How often, and every how many seconds, a child tries to be heard.
_TRIES = 100
_AGAIN = 0.05


class ChannelError(Exception):
    """The other side sent something that is no message of this protocol."""


@dataclass(frozen=True, slots=True)
class Ready:
    """Up: the application is loaded, its lifespan has started and every worker thread takes requests."""

    pid: int
    threads: int
    gil: bool
    gil_culprit: str | None
    seconds: float
    app: str


@dataclass(frozen=True, slots=True)
class BootFailed:
    """Up: the child cannot serve and exits with ``exit_code``. ``error`` is one line, ``traceback`` may be empty."""

    stage: str
    exit_code: int
    error: str
    traceback: str


@dataclass(frozen=True, slots=True)
class Drained:
    """Up: nothing is left to do. ``requests`` were answered in this child's life; ``cut`` names those given up, in at
    most 101 lines of 200 characters."""

    requests: int
    cut: list[str]


@dataclass(frozen=True, slots=True)
class Worn:
    """Up: the child has reached a limit of ``workers`` and wants a successor; it serves on. ``reason``: the limit's
    name."""

    reason: str
    words: str


@dataclass(frozen=True, slots=True)
class Preloaded:
    """Up, from a template: the application is imported, in ``seconds``, and children can be forked."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Fork:
    """Down, to a template: fork the child ``index``.

    With it come (SCM_RIGHTS) the child's end of its channel and what it writes on: the arena (if ``memory``), of which
    ``slots`` slots from ``offset`` on are the child's (0: none), and the files for its last words (if ``words``) and
    for stacks (if ``stacks``).
    """

    index: int
    memory: bool = False
    offset: int = 0
    slots: int = 0
    words: bool = False
    stacks: bool = False


@dataclass(frozen=True, slots=True)
class Forked:
    """Up, from a template: the child ``index`` is the process ``pid``, a child of the master; or 0, and ``error``."""

    index: int
    pid: int
    error: str


@dataclass(frozen=True, slots=True)
class Begin:
    """Down, to a child that a template has forked: the master has it in its books, and it may live."""


@dataclass(frozen=True, slots=True)
class LameDuck:
    """Down: the server stops soon. Serve on, and say ``Connection: close``."""


@dataclass(frozen=True, slots=True)
class Drain:
    """Down: finish what was received within ``graceful`` seconds, then exit.

    ``final``: no other generation takes over the listening sockets, so what waits in their backlog is served too, and
    idle connections are closed. ``close_idle``: close idle connections although another generation has taken over.
    Up to ``MOST_HEIRS`` sockets may come with it, each the way to a child that takes idle connections over.
    """

    graceful: float
    final: bool
    close_idle: bool = False


@dataclass(frozen=True, slots=True)
class Inherit:
    """Down: a child that leaves hands its idle connections over by the socket that comes with this (``handover``).
    ``source``: its name."""

    source: str


@dataclass(frozen=True, slots=True)
class Stop:
    """Down: give up what is in flight, name it in ``Drained.cut``, and exit."""


@dataclass(frozen=True, slots=True)
class Stacks:
    """Down: say where every thread is. ``request``: to be named in the answer."""

    request: int


@dataclass(frozen=True, slots=True)
class StacksAre:
    """Up: one thread's stack, several lines; the ``last`` one of the answer may be empty."""

    request: int
    text: str
    last: bool


Message = (
    Ready | BootFailed | Drained | Worn | Preloaded | Forked | StacksAre
    | LameDuck | Drain | Inherit | Stop | Stacks | Fork | Begin
)  # fmt: skip
_BY_NAME: dict[str, type[Message]] = {cls.__name__: cls for cls in get_args(Message)}
_KINDS = {name: get_type_hints(cls) for name, cls in _BY_NAME.items()}


def encode(message: Message) -> bytes:
    """The packet for ``message``; long texts lose their middle so that it always fits."""
    fields = {name: _shorten(getattr(message, name)) for name in _fields(type(message))}
    text = json.dumps({"type": type(message).__name__, **fields}, ensure_ascii=False)
    return text.encode(errors="backslashreplace")


def decode(packet: bytes) -> Message:
    """The message in ``packet``. Raises ChannelError when it is none; unknown fields are ignored."""
    try:
        raw = json.loads(packet)
        cls = _BY_NAME[raw.pop("type")]
        known = _fields(cls)
        given = {name: value for name, value in raw.items() if name in known}
        if not all(_is_a(kind, given[name]) for name, kind in _KINDS[cls.__name__].items() if name in given):
            raise ValueError("a field of another type")
        return cls(**given)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as exc:
        raise ChannelError(f"channel: not a message: {packet[:80]!r}") from exc


class Channel:
    """One end of the pair. Has one owner on each side: the master's loop, and the child's main thread.

    ``send`` may be called from any thread of a child, as one packet is one atomic system call. The kernel needs memory
    for it, which may be short for a moment (ENOBUFS: a control group at its limit): a child waits for it, as a
    ``Ready`` that nobody hears costs it its life; the master, which never waits, keeps what is ``unsent`` for
    ``flush``.
    """

    __slots__ = ("sock", "unsent")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.unsent: list[Message] = []

    @classmethod
    def pair(cls) -> tuple[Channel, Channel]:
        """(master's end, child's end), both close-on-exec."""
        above, below = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return cls(above), cls(below)

    def send(self, message: Message) -> bool:
        """True if the message is on its way, or will be; False when the other side is gone or does not read."""
        if self.unsent:
            self.unsent.append(message)
            return True
        packet = encode(message)
        for _ in range(_TRIES):
            try:
                self.sock.send(packet, socket.MSG_NOSIGNAL)
            except OSError as exc:
                if exc.errno not in NO_MEMORY:
                    return False
            else:
                return True
            if self.sock.gettimeout() == 0:
                self.unsent.append(message)
                return True
            sleep(_AGAIN)
        return False

    def flush(self) -> bool:
        """Send what is ``unsent``, in order; True when nothing is left."""
        waiting, self.unsent = self.unsent, []
        for message in waiting:
            self.send(message)
        return not self.unsent

    def recv(self) -> Message | None:
        """The next message, or None at the end of the other side.

        Raises BlockingIOError when the socket is non-blocking and nothing is there, ChannelError for a foreign packet.
        """
        try:
            packet = self.sock.recv(MAX_MESSAGE)
        except ConnectionResetError:
            return None
        return decode(packet) if packet else None

    def send_with(self, message: Message, descriptors: Sequence[int]) -> bool:
        """As ``send``, with copies of ``descriptors`` for the other side; False also where others are ``unsent``."""
        if self.unsent and not self.flush():
            return False
        try:
            socket.send_fds(self.sock, [encode(message)], list(descriptors), socket.MSG_NOSIGNAL)
        except OSError:
            return False
        return True

    def recv_with(self, most: int) -> tuple[Message | None, list[int]]:
        """As ``recv``, with up to ``most`` descriptors that came along, close-on-exec; they are the caller's now."""
        try:
            packet, descriptors = receive(self.sock, MAX_MESSAGE, most)
        except ConnectionResetError:
            return None, []
        try:
            return (decode(packet) if packet else None), descriptors
        except ChannelError:
            for fd in descriptors:
                os.close(fd)
            raise

    def fileno(self) -> int:
        """For selectors."""
        return self.sock.fileno()

    def close(self) -> None:
        """Close this end; the other sees it."""
        self.sock.close()


def receive(sock: socket.socket, size: int, most: int) -> tuple[bytes, list[int]]:
    """One packet of up to ``size`` bytes, and up to ``most`` descriptors that came along. Raises OSError.

    Not ``socket.recv_fds``: in Python 3.14 it forgets its flags, and a descriptor that is not close-on-exec from the
    first moment is inherited by a program that another thread, or the application later, starts.
    """
    room = socket.CMSG_LEN(most * _INT.itemsize)
    packet, extras, _, _ = sock.recvmsg(size, room, socket.MSG_CMSG_CLOEXEC)
    descriptors: list[int] = []
    for level, kind, data in extras:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            descriptors += array("i", data[: len(data) - len(data) % _INT.itemsize])
    return packet, descriptors


def _is_a(kind: object, value: object) -> bool:
    """Whether ``value``, as JSON gives it, is of the type ``kind``. A number may be an int where a float is wanted, a
    bool is no number; of a list it is texts that are meant."""
    if isinstance(kind, UnionType):
        return any(_is_a(part, value) for part in get_args(kind))
    if get_origin(kind) is list:
        return isinstance(value, list) and all(isinstance(item, str) for item in value)
    if kind is float:
        return (
            isinstance(value, (int, float)) and not isinstance(value, bool) and -_LARGEST < value < _LARGEST
        )
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool) and -_LARGEST < value < _LARGEST
    return isinstance(value, kind)  # type: ignore[arg-type] # str, bool, NoneType


def _fields(cls: type[Message]) -> frozenset[str]:
    return frozenset(field.name for field in dataclasses.fields(cls))


def _shorten(value: object) -> object:
    if isinstance(value, str) and len(value) > _MAX_TEXT:
        half = _MAX_TEXT // 2
        return f"{value[:half]}\n … {len(value) - _MAX_TEXT} characters left out …\n{value[-half:]}"
    if isinstance(value, list):
        more = [f"and {len(value) - 100} more"] if len(value) > 100 else []
        return [str(item)[:200] for item in value[:100]] + more
    return value
