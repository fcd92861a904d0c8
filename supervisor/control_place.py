"""Where the control socket is: pure, for the master that makes it and the commands that look for it.

Promises: both find the same place from the same configuration, without having spoken. Refuses to look at the disk, but
for links in the path of the configuration's file.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from ..config import ServerConfig

# Where systemd makes the RuntimeDirectory= of our units; an instance of serverd@.service is named after its file.
_SYSTEM_RUNTIME: Final = Path("/run")


def paths(config: ServerConfig, environ: Mapping[str, str]) -> list[Path]:
    """Where the control socket of a daemon with this configuration is: the first that can be had, or be reached.

    `control`, or else beside the configuration's file; a service of systemd can often not write there, so its
    runtime directory comes first. Empty without a file and without `control`.
    """
    if config.control is not None:
        return [config.control]
    if config.source is None:
        return []
    given = environ.get("RUNTIME_DIRECTORY", "").split(":")[0]
    return [*([Path(given) / service_name(config.source)] if given else []), beside(config.source)]


def beside(source: Path) -> Path:
    """Where the socket of a daemon with this configuration is, if it may write there."""
    return source.with_name(f"{source.stem}.control")


def service_name(source: Path) -> str:
    """What its socket is called in a folder that is not its own: no two configurations have the same."""
    return f"{source.stem}-{zlib.crc32(os.fsencode(os.path.realpath(source))):08x}.control"


def places(config: ServerConfig, environ: Mapping[str, str]) -> list[Path]:
    """Where a daemon with this configuration may have its socket; empty if it has none.

    It has it in one place, and knows better which (see `paths`): the file may have changed since it was read.
    """
    named = [] if config.control is None else [config.control]
    return named if config.source is None else [*named, *places_of_file(config.source, environ)]


def places_of_file(source: Path, environ: Mapping[str, str]) -> list[Path]:
    """The same, when nothing is known but where the configuration's file is."""
    roots = [_SYSTEM_RUNTIME]
    if user := environ.get("XDG_RUNTIME_DIR"):
        roots.append(Path(user))
    names = ("serverd", f"serverd-{source.stem}")
    return [beside(source), *(root / name / service_name(source) for root in roots for name in names)]
