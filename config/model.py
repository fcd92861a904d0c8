"""The configuration as the program sees it: frozen dataclasses, one field for each key of server.yaml, with
its default.

Promises: a `ServerConfig` that `serverd.config.load` returned is complete and checked: paths are absolute,
durations are float seconds (0 switches a limit off), sizes are int bytes (0 means no limit), addresses are
parsed. One that is built directly, `ServerConfig(app="x:y")`, has the same defaults and is not checked, for
tests and embedding.

Every object here is immutable, holds only immutable values (`env` is a dict that nobody writes to) and can be
pickled; any thread may read it at any time.
"""

import os
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from .addresses import ListenAddress, TcpAddress
from .compound import (
    CertificatePair,
    FilePath,
    Listen,
    ListOf,
    Maybe,
    Network,
    Pair,
    ThreadRange,
    Threads,
    Variables,
)
from .kinds import Choice, Duration, Flag, Octal, Size, Text, Version, Whole, WholeOrAuto
from .spec import key, late_key, optional_section, required_key, section

type Interface = Literal["auto", "asgi", "wsgi", "sync"]
type Mode = Literal["sync", "async"]
type LoopKind = Literal["auto", "asyncio", "uvloop"]
type StartMethod = Literal["fork", "spawn"]
type ClientCertificates = Literal["none", "optional", "required"]
type TlsVersion = Literal["1.2", "1.3"]
type ProxyHeader = Literal[
    "forwarded", "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-forwarded-port"
]
type LogLevel = Literal["debug", "info", "warning", "error", "critical"]
type LogFormat = Literal["auto", "text", "json", "color"]

_DAY: Final = 86400.0
# epoll_wait(2) takes its timeout as an int of milliseconds: 24.8 days at most. A day is beyond any sensible timeout.
_TIMEOUT: Final = Duration(most=_DAY)
_LIFETIME: Final = Duration(most=3650 * _DAY)
_APP: Final = Text(
    what="module:attribute or module:factory()",
    pattern=r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*(\(\))?",
    editor=r"[^\s:()]+:[^\s:()]+(\(\))?",
)
_URL_PATH: Final = Text(what="a path such as /api (or nothing)", pattern=r"(/[!-.0->@-~]+)*")
_PATH_PREFIX: Final = Text(what="a path that begins with /", pattern=r"/[!->@-~]*")
_PATTERN: Final = Text(what="a file name pattern such as *.py")
_CIPHERS: Final = Text(what="a cipher list of OpenSSL", pattern=r"[!-~]+")
_ACCOUNT: Final = Text(what="a name or a number", pattern=r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}\$?")
_PROXY_HEADERS: Final[tuple[ProxyHeader, ...]] = (
    "forwarded",
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-forwarded-host",
    "x-forwarded-port",
)
_LEVELS: Final[tuple[LogLevel, ...]] = ("debug", "info", "warning", "error", "critical")

__all__ = [
    "AdminConfig", "CertificatePair", "LimitsConfig", "LoggingConfig", "ProcessConfig", "ProxyConfig",
    "ReloadConfig", "ServerConfig", "ThreadRange", "TimeoutsConfig", "TlsConfig", "WebsocketConfig", "WorkersConfig",
]  # fmt: skip


def free_threaded() -> bool:
    """Whether this interpreter was built to run without a GIL (it may be switched on all the same at run time)."""
    return bool(sysconfig.get_config_var("Py_GIL_DISABLED"))


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkersConfig:
    """How many children, how many threads in each, and how they are started and replaced."""

    processes: int | Literal["auto"] = key(
        WholeOrAuto(Whole(least=1, most=1024)), "auto",
        "child processes; auto: 1, or one for each CPU with a GIL or mode async")  # fmt: skip
    threads: int | Literal["auto"] | ThreadRange = key(
        Threads(), "auto", "threads in each child, or {min, max}; auto: twice the CPUs, at least 4"
    )
    mode: Mode = key(
        Choice[Mode](("sync", "async")),
        "sync",
        "sync: each request on a thread; async: all on one event loop",
    )
    loop: LoopKind = key(
        Choice[LoopKind](("auto", "asyncio", "uvloop")),
        "auto",
        "the event loop of asynchronous work; auto: uvloop when it is installed",
    )
    async_paths: tuple[str, ...] = key(
        ListOf(_PATH_PREFIX), (), "path prefixes that are served on the event loop"
    )
    start_method: StartMethod = key(
        Choice[StartMethod](("fork", "spawn")),
        "fork",
        "fork: children are copies of the master; spawn: fresh interpreters",
    )
    preload: bool = key(
        Flag(), False, "import the application once, and fork the children of a generation from that process"
    )
    max_requests: int = key(Whole(), 0, "replace a child after this many requests; 0: never")
    max_requests_jitter: int = key(
        Whole(), 0, "up to this many requests more, at random, so that not all go at once"
    )
    max_rss: int = key(Size(), 0, "replace a child that holds more memory than this; 0: never")
    max_growth: int = key(
        Size(), 0, "replace a child that holds so much more memory than after its first minute; 0: never"
    )
    max_lifetime: float = key(_LIFETIME, 0.0, "replace a child after this time; 0: never")
    root_path: str = key(_URL_PATH, "", "the path that a proxy strips before it passes requests on")

    def process_count(self) -> int:
        """The number of children: one copy of the app serves all cores when threads run in parallel.

        An event loop runs on one core, so `mode: async` has a child for each.
        """
        if self.processes != "auto":
            return self.processes
        return 1 if free_threaded() and self.mode == "sync" else _cpus()

    def thread_bounds(self) -> tuple[int, int]:
        """The least and the most SyncWorkers in each child."""
        most = self.threads.max if isinstance(self.threads, ThreadRange) else self.thread_count()
        return self.thread_count(), most

    def thread_count(self) -> int:
        """The number of SyncWorkers in each child (the smallest, for a range)."""
        if isinstance(self.threads, ThreadRange):
            return self.threads.min
        # Twice the cores, as a thread that waits for a database uses no core; 4 keeps a small machine responsive.
        return max(4, 2 * _cpus()) if self.threads == "auto" else self.threads


def _cpus() -> int:
    return os.process_cpu_count() or 1


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeoutsConfig:
    """How long things may take, in seconds. 0 means no limit."""

    boot: float = key(_TIMEOUT, 60.0, "a child, from its start until it is ready")
    handshake: float = key(_TIMEOUT, 10.0, "a client, for the TLS handshake")
    head: float = key(_TIMEOUT, 10.0, "a client, for the whole head of a request")
    body: float = key(_TIMEOUT, 30.0, "a client, for each further 64 KiB of a request's body")
    keep_alive: float = key(_TIMEOUT, 30.0, "an idle connection, until the next request begins")
    write: float = key(_TIMEOUT, 30.0, "a client, to take a piece of the response")
    request: float = key(
        _TIMEOUT, 0.0, "the application, for one request; then the log says where it is, and it goes on"
    )
    stuck: float = key(
        _TIMEOUT, 0.0, "a thread, for one request; then the child is replaced: it is taken for lost"
    )
    lame_duck: float = key(
        _TIMEOUT, 0.0, "after SIGTERM, go on accepting for so long, while readiness says no (load balancers)"
    )
    graceful: float = key(_TIMEOUT, 30.0, "a child that stops, to finish its requests; then it is cut off")


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitsConfig:
    """How much a client may send, and how many clients there may be."""

    line: int = key(Size(least=128), 8 * 1024, "the request line")
    head: int = key(Size(least=512), 32 * 1024, "the request line and all headers")
    headers: int = key(Whole(least=1, most=10_000), 100, "the number of headers in a request")
    body: int = key(Size(), 0, "the body of a request; 0: no limit")
    buffered_body: int = key(
        Size(least=1024),
        1024 * 1024,
        "up to this size a body is received whole before a thread takes the request",
    )
    connections: int = key(Whole(least=1), 10_000, "open connections in each child")
    connections_per_address: int = key(
        Whole(), 0, "open connections of one client address in each child; 0: no limit"
    )
    queue_wait: float = key(
        _TIMEOUT, 0.0, "requests that have waited so long for a thread get 503, once all do; 0: they wait on"
    )
    backlog: int = key(
        Whole(least=1, most=65_535), 2048, "connections that wait in the kernel to be accepted"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class WebsocketConfig:
    """WebSocket connections of ASGI applications."""

    max_message: int = key(Size(), 16 * 1024 * 1024, "the largest message of a client; 0: no limit")
    compression: bool = key(Flag(), True, "permessage-deflate, with clients that offer it")
    ping_interval: float = key(
        _TIMEOUT, 20.0, "a client that was silent for so long is sent a ping; 0: never"
    )
    ping_timeout: float = key(_TIMEOUT, 20.0, "a client, to send anything after a ping; 0: for ever")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReloadConfig:
    """How new children take over, and whether they do when a file changes (for development)."""

    enabled: bool = key(Flag(), False, "watch files (also: --reload)")
    dirs: tuple[Path, ...] = late_key(
        ListOf(FilePath(), least=1), lambda: (Path.cwd(),), ["."], "folders to watch, with all below them"
    )
    include: tuple[str, ...] = key(ListOf(_PATTERN, least=1), ("*.py",), "files that count")
    exclude: tuple[str, ...] = key(ListOf(_PATTERN), (), "files that do not")
    debounce: float = key(Duration(most=60.0), 0.2, "wait this long for more changes")
    canary: float = key(
        _TIMEOUT, 0.0, "the first new child serves beside the old ones for so long, and is compared; 0: not"
    )
    warmup: tuple[str, ...] = key(
        ListOf(_PATH_PREFIX), (), "paths that every new child has to answer before it is ready"
    )


key_of: Final = key  # the same, in a class that has a key of its own


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsConfig:
    """Serve HTTPS."""

    cert: Path = field(
        metadata=required_key(FilePath(), "the certificate and its chain, PEM", example="server.pem")
    )
    key: Path = field(metadata=required_key(FilePath(), "its private key, PEM", example="server.key"))
    certificates: tuple[CertificatePair, ...] = key_of(
        ListOf(Pair()), (), "more {cert, key} pairs; the client's server name (SNI) chooses among them"
    )
    client_ca: Path | None = key_of(
        Maybe(FilePath()), None, "the authorities that sign clients' certificates, PEM"
    )
    client_cert: ClientCertificates = key_of(
        Choice[ClientCertificates](("none", "optional", "required")),
        "none",
        "whether clients are asked for a certificate, and must have one",
    )
    min_version: TlsVersion = key_of(
        Version[TlsVersion](("1.2", "1.3")), "1.2", "the oldest version of TLS that is spoken"
    )
    ciphers: str | None = key_of(
        Maybe(_CIPHERS), None, "cipher suites of TLS 1.2, as OpenSSL lists them; null: modern ones"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyConfig:
    """Proxies in front of this server."""

    trusted: tuple[str, ...] = key(
        ListOf(Network()), ("127.0.0.1",), "peers whose X-Forwarded-* and Forwarded headers count"
    )
    # Not those that name the host: most proxies pass Host on, and whatever their clients say in these with it. A page
    # of a stranger can have a browser on this machine say it too.
    headers: tuple[ProxyHeader, ...] = key(
        ListOf(Choice[ProxyHeader](_PROXY_HEADERS)),
        ("x-forwarded-for", "x-forwarded-proto"),
        "which of these headers count: those that every proxy in front sets or removes",
    )
    protocol: bool = key(Flag(), False, "expect the PROXY protocol on every connection")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggingConfig:
    """What is written to standard error, and how."""

    level: LogLevel = key(Choice[LogLevel](_LEVELS), "info", "the least important that is written")
    format: LogFormat = key(
        Choice[LogFormat](("auto", "text", "json", "color")),
        "auto",
        "auto: color on a terminal, JSON elsewhere",
    )
    access: bool = key(Flag(), True, "one line for each request")
    query: bool = key(Flag(), True, "its target with the query; false: (hidden) in its place")


@dataclass(frozen=True, slots=True, kw_only=True)
class AdminConfig:
    """The server for health, metrics and status, in its own process."""

    listen: ListenAddress = key(Listen(), TcpAddress("127.0.0.1", 9100), "where it listens")
    ready_capacity: float = key(
        _TIMEOUT, 10.0, "not ready after this time without an idle thread; 0: busy threads do not matter"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessConfig:
    """What the processes run as."""

    user: str | None = key(Maybe(_ACCOUNT), None, "the children's user, once the sockets are open")
    group: str | None = key(Maybe(_ACCOUNT), None, "their group; null: the user's own")
    umask: int | None = key(Maybe(Octal()), None, "for files they make, in octal")
    pidfile: Path | None = key(Maybe(FilePath()), None, "the master's process id is written here")
    title: str | None = key(Maybe(Text()), None, "in place of `serverd` in process lists")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """All of it. `source` is the file it was read from, absolute, or None."""

    app: str = field(
        metadata=required_key(
            _APP, "the application: module:attribute, or module:factory()", example="main:app"
        )
    )
    app_dir: Path = late_key(FilePath(), Path.cwd, ".", "the folder that is first on sys.path")
    interface: Interface = key(
        Choice[Interface](("auto", "asgi", "wsgi", "sync")),
        "auto",
        "how the application is called; auto: find out",
    )
    env: Mapping[str, str] = field(
        default_factory=dict[str, str],
        metadata={"doc": "environment variables, for the children only", "kind": Variables()},
    )
    listen: tuple[ListenAddress, ...] = key(
        ListOf(Listen(), least=1), (TcpAddress("127.0.0.1", 8000),),
        "host:port, [IPv6]:port, unix:PATH, fd://N, systemd or systemd:NAME")  # fmt: skip
    workers: WorkersConfig = section(WorkersConfig, "processes and threads")
    timeouts: TimeoutsConfig = section(TimeoutsConfig, "how long each may take; 0: no limit")
    limits: LimitsConfig = section(LimitsConfig, "how much a client may send, and how many clients")
    websocket: WebsocketConfig = section(WebsocketConfig, "WebSocket connections")
    reload: ReloadConfig = section(
        ReloadConfig, "new code is served as soon as a file is saved (development)"
    )
    tls: TlsConfig | None = optional_section(TlsConfig, "HTTPS; absent: off")
    proxy: ProxyConfig = section(ProxyConfig, "proxies in front of this server")
    logging: LoggingConfig = section(LoggingConfig, "the log, on standard error")
    admin: AdminConfig | None = optional_section(AdminConfig, "health, metrics and status; absent: off")
    control: Path | None = key(Maybe(FilePath()), None, "the control socket; null: beside this file")
    process: ProcessConfig = section(ProcessConfig, "user, files and names of the processes")
    source: Path | None = None
