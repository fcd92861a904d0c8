"""Listening sockets in systemd's store of descriptors, from where the next start of the service gets them back.

Promises: between the stop and the start of a `systemctl restart`, and after a crash, what this server listened on
stays open, so that clients wait in the backlog and none is refused (sd_pid_notify_with_fds(3), FDSTORE=1); a stored
socket is found again by the address that it was made for; one that no address asks for any more is closed and taken
out of the store before anything is bound. The file of a unix socket is left in place at the end, or the stored
socket could not be reached; a stored one whose file is gone is thrown away. Refuses sockets that somebody else
keeps: those of socket units and of fd://.

What a stored descriptor is for stands in its name, which is all that systemd keeps of it: `serverd/` and the
address, percent-encoded as a name has no colon, and for a unix socket `+device+inode` of its file.

Called by the master's only thread.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from typing import Final
from urllib.parse import quote, unquote

from .listeners import Heirloom, Inherited, Listeners
from .notify import Notifier

logger = logging.getLogger("serverd.master")

_PREFIX: Final = "serverd/"
_LONGEST_NAME: Final = 255  # systemd's FDNAME_MAX
_KEPT_ELSEWHERE: Final = ("fd://", "systemd")


def name_of(heirloom: Heirloom) -> str | None:
    """What it is stored as; None if it is not to be stored."""
    if heirloom.address.startswith(_KEPT_ELSEWHERE):
        return None
    file = "" if heirloom.inode is None else f"+{heirloom.inode[0]}+{heirloom.inode[1]}"
    name = f"{_PREFIX}{quote(heirloom.address, safe='/[]', errors='surrogateescape')}{file}"
    return name if len(name) <= _LONGEST_NAME else None


def understand(fd: int, name: str) -> Heirloom | None:
    """The stored socket `fd`, if `name` is one that we have given."""
    if not name.startswith(_PREFIX):
        return None
    address, *file = name.removeprefix(_PREFIX).split("+")
    if not (file == [] or (len(file) == 2 and all(map(str.isdigit, file)))):
        return None
    inode = (int(file[0]), int(file[1])) if file else None
    return Heirloom(unquote(address, errors="surrogateescape"), fd, inode)


def take_back(inherited: Inherited, wanted: Iterable[str], notifier: Notifier) -> list[Heirloom]:
    """The stored sockets among `inherited`, for the addresses `wanted`; all other stored ones are closed for good."""
    addresses = set(wanted)
    found: list[Heirloom] = []
    stale = False
    for fd, name in list(inherited.sockets):
        if not name.startswith(_PREFIX):
            continue
        inherited.sockets.remove((fd, name))
        heirloom = understand(fd, name)
        if heirloom is not None and heirloom.address in addresses and _is_reachable(heirloom):
            addresses.discard(heirloom.address)  # the first one counts
            found.append(heirloom)
            notifier.stored.add(name)
            logger.debug("%s: back from systemd's store", heirloom.address)
            continue
        stale = True
        notifier.discard(name)
        if heirloom is not None:
            heirloom.close()
        else:
            os.close(fd)
    if stale:
        notifier.barrier()  # an address that overlaps with one of these is free when systemd has let go too
    return found


def keep(listeners: Listeners, notifier: Notifier) -> None:
    """Make the store hold what is listened on now."""
    most = notifier.manager.store
    if not most or notifier.muted:
        return
    wanted = {name: item for item in listeners.heirlooms() if (name := name_of(item)) is not None}
    for name in sorted(notifier.stored - wanted.keys()):
        notifier.discard(name)
    for name, heirloom in wanted.items():
        if name not in notifier.stored and len(notifier.stored) < most:
            notifier.store(name, heirloom.fd)
    listeners.stored = {item.address for name, item in wanted.items() if name in notifier.stored}
    if left := sorted(item.address for name, item in wanted.items() if name not in notifier.stored):
        logger.warning(
            "systemd stores %d descriptors, and not %s: raise FileDescriptorStoreMax=", most, ", ".join(left)
        )


def _is_reachable(heirloom: Heirloom) -> bool:
    """Whether the file of a unix socket is still the one that was made for it."""
    if heirloom.path is None:
        return True
    try:
        found = heirloom.path.lstat()
    except OSError:
        return False
    return (found.st_dev, found.st_ino) == heirloom.inode
