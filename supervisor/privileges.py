"""Who the children run as: names are looked up once by the master, and the step down is taken in each child.

Promises: `drop` either leaves the process with exactly the identity that was asked for, with no way back, or
raises. Groups go first, then the group, then the user, each in its real, effective and saved form
(setresuid(2)): in any other order the right to take the next step is already gone. Then no capability is left in any
set, programs give it none either (no_new_privs: sudo and all that is set-user-ID), and it has no terminal of root's to
type on. All of it is looked at afterwards, and tried. Refuses to raise privileges, and to run on with half an identity.

`resolve` belongs to the master's thread. `drop` is called in a child that has one thread: glibc would carry the
change to other threads, but supplementary groups and the umask must be right before any of them starts.
"""

from __future__ import annotations

import contextlib
import ctypes
import grp
import os
import pwd
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from ..config import ProcessConfig

# The last one means "leave it as it is" to setresuid(2).
_NUMBERS: Final = range(2**32 - 1)
# <linux/prctl.h>
_PR_CAPBSET_DROP: Final = 24
_PR_SET_NO_NEW_PRIVS: Final = 38
_PR_GET_NO_NEW_PRIVS: Final = 39
# <linux/capability.h>: two words for each set, of which there are three (effective, permitted, inheritable).
_CAPABILITY_VERSION_3: Final = 0x20080522
_CAPABILITY_WORDS: Final = 6
_MOST_CAPABILITIES: Final = 64


class PrivilegeError(Exception):
    """The configured user or group cannot be had; one line that says why and what to do."""


@dataclass(frozen=True, slots=True)
class Identity:
    """A user, the group it acts as, and all its groups."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    name: str


def resolve(config: ProcessConfig) -> Identity | None:
    """Whom the children become; None when they stay what the master is.

    Raises PrivilegeError when a name is unknown, or when this process may not become it.
    """
    if config.user is None and config.group is None:
        return None
    account = _account(config.user) if config.user is not None else None
    uid = os.getuid() if account is None else account.pw_uid
    if config.group is not None:
        gid = _group(config.group)
    elif account is not None:
        gid = account.pw_gid
    else:
        gid = os.getgid()
    name = account.pw_name if account is not None else str(uid)
    if os.geteuid() != 0:
        if (uid, gid) == (os.getuid(), os.getgid()):
            return None
        key, value = ("user", config.user) if uid != os.getuid() else ("group", config.group)
        raise PrivilegeError(
            f"process.{key}: only root can become {value}; start serverd as root, or take the key out"
        )
    groups = os.getgrouplist(name, gid) if account is not None else [gid]
    return Identity(uid, gid, tuple(sorted(groups)), name)


def _account(user: str) -> pwd.struct_passwd:
    try:
        if (number := _number(user, "user")) is not None:
            return _by_number(number)
        return pwd.getpwnam(user)
    except KeyError:
        raise PrivilegeError(f"process.user: there is no user {user!r}; create it or name another") from None


def _by_number(uid: int) -> pwd.struct_passwd:
    """The account of `uid`. A number without an account is used as it is, in containers often the only way."""
    try:
        return pwd.getpwuid(uid)
    except KeyError:
        return pwd.struct_passwd((str(uid), "x", uid, uid, "", "/", "/sbin/nologin"))


def _number(text: str, key: str) -> int | None:
    """`text` as the number of an account, None if it is a name. Raises PrivilegeError."""
    if not (text.isascii() and text.isdecimal()):
        return None
    if int(text) not in _NUMBERS:
        raise PrivilegeError(f"process.{key}: {text} is no number of a {key}; {_NUMBERS[-1]} is the last")
    return int(text)


def _group(group: str) -> int:
    if (number := _number(group, "group")) is not None:
        return number
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        raise PrivilegeError(
            f"process.group: there is no group {group!r}; create it or name another"
        ) from None


def drop(identity: Identity | None, umask: int | None) -> None:
    """Become `identity` for good and set the umask. Raises PrivilegeError when that did not work to the letter."""
    if umask is not None:
        os.umask(umask)
    if identity is None:
        return
    try:
        os.setgroups(identity.groups)
        if identity.uid != 0:
            _forget_capabilities()  # while there is the right to
        os.setresgid(identity.gid, identity.gid, identity.gid)
        os.setresuid(identity.uid, identity.uid, identity.uid)
        if identity.uid != 0:
            _leave_terminal()
            _give_up_capabilities()
            _system_call("prctl", _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    except (OSError, ValueError) as error:  # ValueError: more groups than there may be
        why = error.strerror if isinstance(error, OSError) else error
        raise PrivilegeError(f"process.user: cannot become {identity.name}: {why}") from None
    if not _is(identity):
        raise PrivilegeError(f"process.user: the step down to {identity.name} was not complete")
    if identity.uid != 0 and _can_return():
        raise PrivilegeError(
            f"process.user: {identity.name} could become root again; take CAP_SETUID away from serverd"
        )


def _is(identity: Identity) -> bool:
    """Whether this process is `identity` and nothing else."""
    groups = {*os.getgroups(), identity.gid}
    return (
        os.getresuid() == (identity.uid,) * 3
        and os.getresgid() == (identity.gid,) * 3
        and groups == {*identity.groups, identity.gid}
        and (identity.uid == 0 or not any(_capabilities()))
        and (identity.uid == 0 or bool(_system_call("prctl", _PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0)))
    )


def _can_return() -> bool:
    """Whether any of the ways back is open, each of them tried."""
    ways: tuple[Callable[[], object], ...] = (
        lambda: os.setresuid(-1, 0, -1),
        lambda: os.setresgid(-1, 0, -1) if os.getgid() else os.setgroups([0]),
        lambda: os.setgroups([]),
    )
    for way in ways:
        with contextlib.suppress(PermissionError):
            way()
            return True
    return False


def _leave_terminal() -> None:
    """On a terminal, leave its session: who shares root's could type on it (TIOCSTI, ioctl_tty(2))."""
    if any(os.isatty(fd) for fd in range(3)):
        with contextlib.suppress(PermissionError):  # the first of its group has none to leave
            os.setsid()


def _forget_capabilities() -> None:
    """Empty the bounding set, as far as that is allowed here: no_new_privs closes the same way."""
    for number in range(_MOST_CAPABILITIES):
        try:
            _system_call("prctl", _PR_CAPBSET_DROP, number, 0, 0, 0)
        except OSError:  # the kernel has no more, or CAP_SETPCAP is not here
            return


def _give_up_capabilities() -> None:
    """Empty the other sets; a change of user leaves the inheritable ones, and with some securebits all of them. The
    ambient ones go with these (capabilities(7))."""
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    _system_call("capset", header, (ctypes.c_uint32 * _CAPABILITY_WORDS)())


def _capabilities() -> list[int]:
    """Those that this process has or may pass on, as words of bits."""
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    words = (ctypes.c_uint32 * _CAPABILITY_WORDS)()
    _system_call("capget", header, words)
    return list(words)


def _system_call(name: str, *arguments: object) -> int:
    """Call a function of the C library. Raises OSError."""
    result: int = getattr(ctypes.CDLL(None, use_errno=True), name)(*arguments)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
    return result
