"""The configuration: its model, and how it is read.

    from serverd.config import ServerConfig, load, ConfigError

Importing this package is cheap: the YAML reader and cattrs are imported by `load` when it is first called.
This room imports nothing of the others.
"""

from .addresses import FdAddress, ListenAddress, SystemdAddress, TcpAddress, UnixAddress, parse_address
from .errors import ConfigError, Problem
from .model import (
    AdminConfig,
    LimitsConfig,
    LoggingConfig,
    ProcessConfig,
    ProxyConfig,
    ReloadConfig,
    ServerConfig,
    ThreadRange,
    TimeoutsConfig,
    TlsConfig,
    WorkersConfig,
)

__all__ = [
    "AdminConfig",
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
    "WorkersConfig",
    "parse_address",
]
