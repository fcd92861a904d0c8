"""Kinds of value that hold other values or name a place: paths, addresses, lists, groups of variables, ranges.

As in kinds.py everything is immutable and pure; what is new here is `anchor`, which makes relative paths
absolute before they are read, and several faults in one value, which come out together as BadItems.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any, Literal, override

from .addresses import ListenAddress, parse_address
from .errors import BadItems, BadValue
from .kinds import EXPANSION, Kind, Raw, Scalar, Schema, Text, Whole, WholeOrAuto, refuse


@dataclass(frozen=True, slots=True)
class FilePath(Scalar[Path]):
    """A path. `read` leaves it as it is; `anchor` has made it absolute before (without following links, so that a
    `current -> releases/7` link is followed anew at every reload)."""

    @property
    @override
    def expected(self) -> str:
        return "a path"

    @override
    def parse(self, text: str) -> Path:
        if not text or "\0" in text:
            raise ValueError
        return Path(text)

    @override
    def write(self, value: Path) -> str:
        return str(value).replace("$", "$$")

    @override
    def schema(self) -> Schema:
        return {"type": "string", "minLength": 1}

    @override
    def anchor(self, raw: Raw, base: Path) -> Raw:
        return os.path.abspath(base / raw) if isinstance(raw, str) and raw and "\0" not in raw else raw


@dataclass(frozen=True, slots=True)
class Listen(Scalar[ListenAddress]):
    """An address to listen on (see addresses.py)."""

    @property
    @override
    def expected(self) -> str:
        return "host:port, [IPv6]:port, unix:PATH, fd://N or systemd"

    @override
    def parse(self, text: str) -> ListenAddress:
        return parse_address(text)

    @override
    def write(self, value: ListenAddress) -> str:
        return str(value).replace("$", "$$")

    @override
    def schema(self) -> Schema:
        tcp = r"^(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9.])?):[0-9]{1,5}$"
        return {"type": "string", "pattern": rf"{tcp}|^unix:.+|^fd://[0-9]+$|^systemd(:.+)?$|{EXPANSION}"}

    @override
    def anchor(self, raw: Raw, base: Path) -> Raw:
        scheme, _, path = raw.partition(":") if isinstance(raw, str) else ("", "", "")
        if scheme != "unix" or not path or path[0] in "@/" or path[-1] == "/" or "\0" in path:
            return raw
        return f"unix:{os.path.abspath(base / path)}"


@dataclass(frozen=True, slots=True)
class Network(Scalar[str]):
    """The peers that are proxies: an address, a network, every peer (*), or those of unix sockets (unix)."""

    @property
    @override
    def expected(self) -> str:
        return "an IP address, a network such as 10.0.0.0/8, unix, or * for every peer"

    @override
    def parse(self, text: str) -> str:
        if text in ("*", "unix"):
            return text
        if "%" in text:
            zone = text.partition("%")[2]
            raise BadValue(f"expected an IPv6 address without the zone %{zone}")
        network = ip_network(text, strict=False)
        address, slash, length = text.partition("/")
        if slash and ip_address(address) != network.network_address:
            raise BadValue(f"expected an address without /{length}, or the network {network}")
        return str(network).removesuffix("/32").removesuffix("/128")

    @override
    def write(self, value: str) -> str:
        return value

    @override
    def schema(self) -> Schema:
        return {"type": "string", "pattern": rf"^(\*|unix|[0-9A-Fa-f:.]+(/[0-9]{{1,3}})?)$|{EXPANSION}"}


@dataclass(frozen=True, slots=True)
class ListOf[T](Kind[tuple[T, ...]]):
    """A list; one value that stands alone is a list of one."""

    item: Kind[T]
    least: int = 0

    @property
    @override
    def expected(self) -> str:
        return f"a list, each item {self.item.expected}"

    @override
    def read(self, raw: Raw) -> tuple[T, ...]:
        if isinstance(raw, str):
            return (self.item.read(raw),)
        if not isinstance(raw, list) or len(raw) < self.least:
            raise (
                refuse(self.expected, raw)
                if raw != []
                else BadValue("expected at least one item, got an empty list")
            )
        found: list[T] = []
        bad: list[BadValue] = []
        for index, part in enumerate(raw):
            try:
                found.append(self.item.read(part))
            except BadValue as error:
                bad.append(BadValue(str(error), (index, *error.path)))
        if bad:
            raise BadItems(bad)
        return tuple(found)

    @override
    def write(self, value: Sequence[T]) -> list[Any]:
        return [self.item.write(part) for part in value]

    @override
    def schema(self) -> Schema:
        items = self.item.schema()
        return {"anyOf": [{"type": "array", "items": items, "minItems": self.least}, items]}

    @override
    def anchor(self, raw: Raw, base: Path) -> Raw:
        if isinstance(raw, list):
            return [self.item.anchor(part, base) for part in raw]
        return self.item.anchor(raw, base)


@dataclass(frozen=True, slots=True)
class Variables(Kind[Mapping[str, str]]):
    """Environment variables: names and texts. A value may be a secret: no message quotes one."""

    value: Text = field(default=Text(what="text", pattern=r"[^\x00]*"))

    @property
    @override
    def expected(self) -> str:
        return "a group of NAME: text"

    @override
    def read(self, raw: Raw) -> Mapping[str, str]:
        if raw is None:
            return {}
        if not isinstance(raw, dict):
            raise refuse(self.expected, raw)
        bad: list[BadValue] = []
        found: dict[str, str] = {}
        for name, part in raw.items():
            try:
                if not name or "=" in name or "\0" in name:
                    raise BadValue("expected the name of an environment variable, without =")
                if isinstance(part, str) and "\0" in part:
                    raise BadValue("expected text without a NUL")
                found[name] = self.value.read("" if part is None else part)
            except BadValue as error:
                bad.append(BadValue(str(error), (name,)))
        if bad:
            raise BadItems(bad)
        return found

    @override
    def write(self, value: Mapping[str, str]) -> dict[str, str]:
        return {name: self.value.write(text) for name, text in value.items()}

    @override
    def schema(self) -> Schema:
        return {
            "type": ["object", "null"],
            "additionalProperties": {"type": ["string", "number", "boolean", "null"]},
        }


@dataclass(frozen=True, slots=True)
class Maybe[T](Kind[T | None]):
    """A value, or null for none."""

    inner: Kind[T]

    @property
    @override
    def expected(self) -> str:
        return f"{self.inner.expected}, or null"

    @override
    def read(self, raw: Raw) -> T | None:
        return None if raw is None else self.inner.read(raw)

    @override
    def write(self, value: T | None) -> Any:
        return None if value is None else self.inner.write(value)

    @override
    def schema(self) -> Schema:
        return {"anyOf": [{"type": "null"}, self.inner.schema()]}

    @override
    def anchor(self, raw: Raw, base: Path) -> Raw:
        return None if raw is None else self.inner.anchor(raw, base)


@dataclass(frozen=True, slots=True)
class CertificatePair:
    """A certificate with its chain, and its key: two PEM files."""

    cert: Path
    key: Path


@dataclass(frozen=True, slots=True)
class Pair(Kind[CertificatePair]):
    """A group of `cert` and `key`."""

    file: FilePath = field(default=FilePath())

    @property
    @override
    def expected(self) -> str:
        return "{cert: FILE, key: FILE}"

    @override
    def read(self, raw: Raw) -> CertificatePair:
        if not isinstance(raw, dict):
            raise refuse(self.expected, raw)
        if set(raw) != {"cert", "key"}:
            raise BadValue(f"expected {self.expected}")
        files: dict[str, Path] = {}
        for name in ("cert", "key"):
            try:
                files[name] = self.file.read(raw[name])
            except BadValue as error:
                raise BadValue(str(error), (name,)) from None
        return CertificatePair(**files)

    @override
    def write(self, value: CertificatePair) -> Any:
        return {"cert": self.file.write(value.cert), "key": self.file.write(value.key)}

    @override
    def schema(self) -> Schema:
        file = self.file.schema()
        return {
            "type": "object",
            "properties": {"cert": file, "key": file},
            "required": ["cert", "key"],
            "additionalProperties": False,
        }

    @override
    def anchor(self, raw: Raw, base: Path) -> Raw:
        if not isinstance(raw, dict):
            return raw
        return {name: self.file.anchor(part, base) for name, part in raw.items()}


@dataclass(frozen=True, slots=True)
class ThreadRange:
    """Between `min` and `max` threads, by load."""

    min: int
    max: int


@dataclass(frozen=True, slots=True)
class Threads(Kind[int | Literal["auto"] | ThreadRange]):
    """A number of threads, auto, or a range of numbers."""

    number: WholeOrAuto = field(default=WholeOrAuto(Whole(least=1, most=1024)))

    @property
    @override
    def expected(self) -> str:
        return self.number.expected

    @override
    def read(self, raw: Raw) -> int | Literal["auto"] | ThreadRange:
        if not isinstance(raw, dict):
            return self.number.read(raw)
        if set(raw) != {"min", "max"}:
            raise BadValue("expected {min: N, max: N}")
        bounds: dict[str, int] = {}
        bad: list[BadValue] = []
        for name in ("min", "max"):
            try:
                bounds[name] = self.number.number.read(raw[name])
            except BadValue as error:
                bad.append(BadValue(str(error), (name,)))
        if bad:
            raise BadItems(bad)
        if bounds["min"] > bounds["max"]:
            raise BadValue(f"expected min to be at most max, got {bounds['min']} and {bounds['max']}")
        return ThreadRange(**bounds)

    @override
    def write(self, value: int | Literal["auto"] | ThreadRange) -> Any:
        return (
            {"min": value.min, "max": value.max}
            if isinstance(value, ThreadRange)
            else self.number.write(value)
        )

    @override
    def schema(self) -> Schema:
        bound = self.number.number.schema()
        return {
            "anyOf": [
                *self.number.schema()["anyOf"],
                {
                    "type": "object",
                    "properties": {"min": bound, "max": bound},
                    "required": ["min", "max"],
                    "additionalProperties": False,
                },
            ]
        }
