"""Who the children run as: names are looked up once by the master, and the step down is taken in each child.

Promises: `drop` either leaves the process with exactly the identity that was asked for, with no way back, or
raises. Groups go first, then the group, then the user, each in its real, effective and saved form
(setresuid(2)): in any other order the right to take the next step is already gone. Refuses to raise privileges,
and to run on with half an identity.

`resolve` belongs to the master's thread. `drop` is called in a child that has one thread: glibc would carry the
change to other threads, but supplementary groups and the umask must be right before any of them starts.
"""

from __future__ import annotations

import grp
import os
import pwd
from dataclasses import dataclass

from ..config import ProcessConfig


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
        if user.isdigit():
            return _by_number(int(user))
        return pwd.getpwnam(user)
    except KeyError:
        raise PrivilegeError(f"process.user: there is no user {user!r}; create it or name another") from None


def _by_number(uid: int) -> pwd.struct_passwd:
    """The account of `uid`. A number without an account is used as it is, in containers often the only way."""
    try:
        return pwd.getpwuid(uid)
    except KeyError:
        return pwd.struct_passwd((str(uid), "x", uid, uid, "", "/", "/sbin/nologin"))


def _group(group: str) -> int:
    if group.isdigit():
        return int(group)
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
        os.setresgid(identity.gid, identity.gid, identity.gid)
        os.setresuid(identity.uid, identity.uid, identity.uid)
    except OSError as error:
        raise PrivilegeError(f"process.user: cannot become {identity.name}: {error.strerror}") from None
    if os.getresuid() != (identity.uid,) * 3 or os.getresgid() != (identity.gid,) * 3:
        raise PrivilegeError(f"process.user: the step down to {identity.name} was not complete")
    if identity.uid != 0 and _can_return():
        raise PrivilegeError(
            f"process.user: {identity.name} could become root again; take CAP_SETUID away from serverd"
        )


def _can_return() -> bool:
    try:
        os.setresuid(-1, 0, -1)
    except PermissionError:
        return False
    return True
