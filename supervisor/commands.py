"""The commands that do not serve: check, init, schema. Each returns the exit status of the process.

Promises: what a command is asked for goes to standard output and is complete and well-formed (`check` writes
YAML that loads again, `schema` JSON); everything else goes to standard error. `check` imports the application in
a process of its own, so that nothing it does at import can hurt or outlive the check. `init` never overwrites a
file unless it is told to.
"""

import json
import pickle
import re
import stat
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, Final

from ..config import ConfigError, ServerConfig, load
from ..config.escaping import escape_lines
from ..config.units import format_duration

CLEAN: Final = 0
USAGE_ERROR: Final = 2
APP_NOT_LOADED: Final = 4
DEFAULT_APP: Final = "main:app"  # what init writes when it is not told
_STANDARD_ERROR: Final = 2  # the descriptor: what imported modules print must not get into our output
_INTERFACES: Final = {"asgi": "an ASGI application", "wsgi": "a WSGI application", "sync": "a SyncApp"}
# What secrets are called, and how short none is.
_SECRET: Final = re.compile("secret|passw|token|credential|private|api_?key|access_?key", re.IGNORECASE)
_LEAST_SECRET: Final = 4
_HIDDEN: Final = "(hidden: --show-env)"


def say(message: str) -> None:
    """For the person, on standard error; what an application says cannot do anything to the terminal."""
    print(escape_lines(message), file=sys.stderr, flush=True)  # noqa: T201 - a command speaks to a person, not to a log


def check(config: ServerConfig, *, show_env: bool) -> int:
    """Import the application and print the effective configuration; 0, or 4 when it cannot be loaded.

    The values of `env` are often secrets, and the output often ends up in the log of a build: they are shown on
    request only.
    """
    from ..config.render import to_yaml  # noqa: PLC0415 - brings in YAML, which only this command needs

    if config.tls is not None:
        from ..config.certificates import warnings  # noqa: PLC0415 - brings in ssl, which few configurations need

        for line in warnings(config.tls):
            say(f"serverd check: {line}")
    for line in exposed(config):
        say(f"serverd check: {line}")
    found = probe(config)
    shown = config if show_env else replace(config, env=dict.fromkeys(config.env, _HIDDEN))
    if "error" in found:
        if found["traceback"]:
            say(found["traceback"].rstrip())
        verdict, status = f"{config.app} was not loaded", APP_NOT_LOADED
    else:
        if found["gil_culprit"]:
            say(
                f"serverd check: {found['gil_culprit']} switched the GIL on; threads will not run in parallel"
            )
        verdict = (
            f"ok: {found['name']} is {_INTERFACES[found['interface']]}, imported in {found['seconds']:.2f} s"
        )
        status = CLEAN
    sys.stdout.write(f"# {verdict}\n{to_yaml(shown)}")
    sys.stdout.flush()
    if "error" in found:  # last, where a person looks first
        say(f"serverd check: {found['error']}")
    return status


def exposed(config: ServerConfig) -> list[str]:
    """A hint for each secret in `env` that stands in a file which every user of the machine may read."""
    try:
        if config.source is None or not config.source.stat().st_mode & stat.S_IROTH:
            return []
        text = config.source.read_text(errors="replace")
    except OSError:  # it is gone since it was read
        return []
    named = [
        name for name, value in config.env.items() if _SECRET.search(name) and len(value) >= _LEAST_SECRET
    ]
    where = f"{config.source.name}, which every user of this machine may read: chmod o-r {config.source}"
    return [
        f"env.{name} stands in {where}, or write ${{{name}}} there and set it outside"
        for name in named
        if config.env[name] in text
    ]


def probe(config: ServerConfig) -> dict[str, Any]:
    """What importing the application in a child process gives: `name`, `interface`, `gil_culprit` (may be empty),
    `seconds`; or `error` (one line) and `traceback` (may be empty). The child's output goes to standard error."""
    limit = config.timeouts.boot or None
    started = time.monotonic()
    # A file and not a pipe: an answer of any length never blocks the child, and processes it leaves never block us.
    with TemporaryFile() as answer:
        # -P: only app_dir is put on sys.path, as when serving, and not the current directory.
        with subprocess.Popen(
            [sys.executable, "-P", "-m", "serverd.supervisor.app_probe", str(answer.fileno())],
            stdin=subprocess.PIPE,
            stdout=_STANDARD_ERROR,
            pass_fds=(answer.fileno(),),
        ) as child:
            try:
                child.communicate(pickle.dumps(config), timeout=limit)
            except subprocess.TimeoutExpired:
                child.kill()
                took = format_duration(limit or 0)
                return {"error": f"{config.app}: not imported within {took} (timeouts.boot)", "traceback": ""}
        answer.seek(0)
        text = answer.read()
    if not text:
        how = f"signal {-child.returncode}" if child.returncode < 0 else f"exit status {child.returncode}"
        return {"error": f"{config.app}: the process ended while importing it ({how})", "traceback": ""}
    return {**json.loads(text), "seconds": time.monotonic() - started}


def init(path: Path, *, app: str, force: bool) -> int:
    """Write a commented configuration for `app` to `path` (or to server.yaml in that folder)."""
    from ..config.render import new_file  # noqa: PLC0415 - see check

    if path.is_dir():
        path /= "server.yaml"
    try:
        load(None, app=app, environ={})
    except ConfigError as error:
        say(f"serverd init: --app: {error.problems[0].message}")
        return USAGE_ERROR
    try:
        with open(path, "w" if force else "x", encoding="utf-8") as file:
            file.write(new_file(app))
    except FileExistsError:
        say(f"serverd init: {path} exists; name another file, or overwrite it with --force")
        return USAGE_ERROR
    except OSError as error:
        say(f"serverd init: {path} cannot be written: {error.strerror}")
        return USAGE_ERROR
    first = f"put your application in place of {app}, then " if app == DEFAULT_APP else ""
    say(f"wrote {path}; next: {first}serverd check -c {path}, then serverd -c {path}")
    return CLEAN


def schema() -> int:
    """Print the JSON Schema of server.yaml."""
    from ..config.schema import json_schema  # noqa: PLC0415 - see check

    sys.stdout.write(json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n")
    sys.stdout.flush()
    return CLEAN
