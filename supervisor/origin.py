"""How this master was started, so that another can be started in the same way.

Promises: the same words as on the first command line, looked up anew (on the PATH, through symbolic links), so that an
interpreter, environment or serverd that was put into the old one's place is what runs; started in the folder as it was
called then ($PWD), so that a link that points to a new release by now is followed; what the first one ignored
(SIGHUP under nohup) is ignored again. Standard streams are shared; of other descriptors the new process gets only
those that it needs.

Called by the master's only thread; what runs in the forked process replaces itself at once.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Self

from ..server.channel import Channel
from .spawn import Started, launch


@dataclass(frozen=True, slots=True)
class Origin:
    """The command line of this process, the folder it was started in (empty: gone by now), and whether by nohup."""

    argv: tuple[str, ...]
    folder: str
    nohup: bool

    @classmethod
    def remember(cls) -> Self:
        """Of this process; to be called before handlers are installed."""
        ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        return cls(tuple(sys.orig_argv), current_folder(os.environ), ignored)


def current_folder(environ: Mapping[str, str]) -> str:
    """The current folder by the name under which it was entered; empty when it does not exist any more."""
    try:
        named = environ.get("PWD", "")
        if os.path.isabs(named) and os.path.samefile(named, "."):
            return named
        return os.getcwd()
    except OSError:
        return ""


def start_successor(origin: Origin, variable: str, first_word: bytes, keep: Iterable[int]) -> Started:
    """Start this program again, with the descriptors `keep` and a channel on which `first_word` waits.

    `variable` of its environment names the channel's descriptor and this process. Raises OSError.
    """
    above, below = Channel.pair()
    above.sock.send(first_word)
    environ = {**os.environ, variable: f"{below.fileno()}:{os.getpid()}"}

    def body() -> int:
        try:
            if origin.folder:
                os.chdir(origin.folder)
            if origin.nohup:
                signal.signal(signal.SIGHUP, signal.SIG_IGN)
            for fd in (*keep, below.fileno()):
                os.set_inheritable(fd, True)
            first, *words = origin.argv
            program = first if shutil.which(first) else sys.executable
            os.execvpe(program, [program, *words], environ)
        except OSError as error:
            reason = f"cannot start {origin.argv[0]} in {origin.folder}: {error.strerror}"
            below.sock.send(
                json.dumps({"say": "failed", "reason": reason}).encode("ascii"), socket.MSG_NOSIGNAL
            )
        return 1

    try:
        return launch(body, above)
    finally:
        below.close()
