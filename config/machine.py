"""What the machine allows of what the configuration asks for: open files, and the kernel's longest backlog.

Promises: a shortfall is one line that names the key, both numbers and the remedy; nothing is changed; what cannot be
found out is no shortfall. Pure functions, but for ``shortfalls``, which looks at this process and at /proc.
"""

import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from .model import ServerConfig

_SOMAXCONN: Final = Path("/proc/sys/net/core/somaxconn")
# Descriptors for all that is no connection: the application's files, its database, our loops.
OTHER_FILES: Final = 1024
# Of few descriptors this part is kept for that.
_PART: Final = 4


def most_connections(connections: int, files: int) -> int:
    """How many connections a child takes that may open ``files`` files: what it wants, if descriptors are left for
    the application."""
    return max(1, min(connections, files - min(OTHER_FILES, files // _PART)))


def too_few_files(config: ServerConfig, files: int) -> str:
    """What to say when a process may open no more than ``files`` files; "" if that is enough."""
    wanted = config.limits.connections
    most = most_connections(wanted, files)
    if most == wanted:
        return ""
    return (
        f"limits.connections is {wanted}, and a process may open {files} files: each child takes {most} connections; "
        f"raise the hard limit (LimitNOFILE= of the unit, ulimit -Hn) to {wanted + OTHER_FILES}, or lower the key"
    )


def too_long_backlog(config: ServerConfig, longest: int) -> str:
    """What to say when the kernel keeps no more than ``longest`` connections waiting; "" if that is enough."""
    wanted = config.limits.backlog
    if wanted <= longest:
        return ""
    return (
        f"limits.backlog is {wanted}, and the kernel allows {longest}: raise net.core.somaxconn (sysctl), "
        "or lower the key"
    )


def shortfalls(config: ServerConfig) -> Iterator[str]:
    """One line for each."""
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if files != resource.RLIM_INFINITY and (line := too_few_files(config, files)):
        yield line
    try:
        longest = int(_SOMAXCONN.read_text())
    except OSError, ValueError:  # a sandbox that does not show it
        return
    if line := too_long_backlog(config, longest):
        yield line
