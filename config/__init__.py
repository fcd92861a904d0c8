"""The configuration: its model, and how it is read.

    from serverd.config import ServerConfig, load, ConfigError

Importing this package is cheap: the YAML reader and cattrs are imported by `load` when it is first called.
This room imports nothing of the others.
"""

import os
from collections.abc import Mapping, Sequence

from .addresses import FdAddress, ListenAddress, SystemdAddress, TcpAddress, UnixAddress, parse_address
from .errors import ConfigError, Problem
from .model import (
    AdminConfig,
    CertificatePair,
    LimitsConfig,
    LoggingConfig,
    ProcessConfig,
    ProxyConfig,
    ReloadConfig,
    ServerConfig,
    ThreadRange,
    TimeoutsConfig,
    TlsConfig,
    WebsocketConfig,
    WorkersConfig,
)

__all__ = [
    "AdminConfig",
    "CertificatePair",
    "ConfigError",
    "FdAddress",
    "LimitsConfig",
    "ListenAddress",
    "LoggingConfig",
    "Problem",
    "ProcessConfig",
    "ProxyConfig",
    "ReloadConfig",
    "ServerConfig",
    "SystemdAddress",
    "TcpAddress",
    "ThreadRange",
    "TimeoutsConfig",
    "TlsConfig",
    "UnixAddress",
    "WebsocketConfig",
    "WorkersConfig",
    "load",
    "parse_address",
]


def load(
    path: str | os.PathLike[str] | None,
    *,
    app: str | None = None,
    overrides: Sequence[str] = (),
    environ: Mapping[str, str],
) -> ServerConfig:
    """Read the configuration; see `loader.load`. Raises ConfigError with every problem at once."""
    from .loader import load as implementation  # noqa: PLC0415 - it brings YAML and cattrs, which children never need

    return implementation(path, app=app, overrides=overrides, environ=environ)
