"""The commands that do not serve: check, init, schema. Each returns the exit status of the process.

Promises: what a command is asked for goes to standard output and is complete and well-formed (`check` writes
YAML that loads again, `schema` JSON); everything else goes to standard error. `check` imports the application in
a process of its own, so that nothing it does at import can hurt or outlive the check. `init` never overwrites a
file unless it is told to.
"""

import json
import os
import pickle
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from ..config import ConfigError, ServerConfig, load
from ..config.units import format_duration

CLEAN: Final = 0
USAGE_ERROR: Final = 2
APP_NOT_LOADED: Final = 4
_HIDDEN: Final = "(hidden: --show-env)"


def say(message: str) -> None:
    """One line for the person, on standard error."""
    print(message, file=sys.stderr, flush=True)  # noqa: T201 - a command speaks to a person, not to a log


def check(config: ServerConfig, *, show_env: bool) -> int:
    """Import the application and print the effective configuration; 0, or 4 when it cannot be loaded.

    The values of `env` are often secrets, and the output often ends up in the log of a build: they are shown on
    request only.
    """
    from ..config.render import to_yaml  # noqa: PLC0415 - brings in YAML, which only this command needs

    found = probe(config)
    shown = config if show_env else replace(config, env=dict.fromkeys(config.env, _HIDDEN))
    if "error" in found:
        say(f"serverd check: {found['error']}")
        if found["traceback"]:
            say(found["traceback"].rstrip())
        return APP_NOT_LOADED
    if found["gil_culprit"]:
        say(
            f"serverd check: the module {found['gil_culprit']} switched the GIL on; threads will not run in parallel"
        )
    what = f"{found['name']}: {found['interface']} application, imported in {found['seconds']:.2f} s"
    sys.stdout.write(f"# ok: {what}\n{to_yaml(shown)}")
    sys.stdout.flush()
    return CLEAN


def probe(config: ServerConfig) -> dict[str, Any]:
    """What importing the application in a child process gives: `name`, `interface`,
    `gil_culprit` (may be empty), `seconds`; or `error` (one
    line) and `traceback` (may be empty). The child's output goes to our standard error."""
    limit = config.timeouts.boot or None
    read_end, write_end = os.pipe()
    started = time.monotonic()
    with open(read_end, encoding="utf-8") as answers:
        try:
            # -P: only app_dir is put on sys.path, as when serving, and not the current directory.
            child = subprocess.Popen(
                [sys.executable, "-P", "-m", "serverd.supervisor.app_probe", str(write_end)],
                stdin=subprocess.PIPE,
                stdout=sys.stderr.fileno(),
                pass_fds=(write_end,),
            )
        finally:
            os.close(write_end)
        with child:
            try:
                child.communicate(pickle.dumps(config), timeout=limit)
            except subprocess.TimeoutExpired:
                child.kill()
                took = format_duration(limit or 0)
                return {"error": f"{config.app}: not imported within {took} (timeouts.boot)", "traceback": ""}
        # What the child left running could hold the pipe open: only what it wrote before it ended is read.
        os.set_blocking(answers.fileno(), False)
        answer = answers.readline()
    if not answer:
        how = f"signal {-child.returncode}" if child.returncode < 0 else f"exit status {child.returncode}"
        return {"error": f"{config.app}: the process ended while importing it ({how})", "traceback": ""}
    return {**json.loads(answer), "seconds": time.monotonic() - started}


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
    say(f"wrote {path}; next: serverd check -c {path}, then serverd -c {path}")
    return CLEAN


def schema() -> int:
    """Print the JSON Schema of server.yaml."""
    from ..config.schema import json_schema  # noqa: PLC0415 - see check

    sys.stdout.write(json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n")
    sys.stdout.flush()
    return CLEAN
