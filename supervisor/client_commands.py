"""The commands that speak to a running serverd: status, top, reload, scale, stop, stacks, upgrade. Each returns the
exit status of the process.

Promises: 0 when it was done (with `--wait`: when the new generation serves), 1 with one line on standard error when it
was not or nobody is there, 2 for a command that makes no sense. What a command is asked for goes to standard output.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from ..config import ConfigError, load
from ..config.logs import escape_text
from ..config.units import parse_duration
from . import remote, status_view
from .control_place import places
from .remote import RemoteError

FAILED: Final = 1
USAGE_ERROR: Final = 2
# `serverd top` asks so often, in seconds.
_INTERVAL: Final = 1.0
_SHORTEST_INTERVAL: Final = 0.1


def run(name: str, words: Sequence[str], description: str) -> int:
    """Carry out `serverd NAME WORDS`. Raises SystemExit as argparse does, and ConfigError."""
    options = _parser(name, description).parse_args(words)
    places = _places(name, options)
    if isinstance(places, str):
        return _fail(name, places, USAGE_ERROR)
    try:
        return _DO[name](places, options)
    except RemoteError as error:
        return _fail(name, str(error), FAILED)


def _places(name: str, options: argparse.Namespace) -> list[Path] | str:
    """Where to look for the daemon; or what is wrong. Raises ConfigError."""
    if options.control:
        return [Path(options.control)]
    file = options.config or "server.yaml"
    if options.config is None and not os.path.lexists(file):
        return "there is no server.yaml here; name the daemon's file (-c FILE) or its socket (--control PATH)"
    try:
        config = load(file, environ=os.environ)
    except ConfigError as error:
        return remote.after_mistake(Path(file).absolute(), os.environ, error)
    return places(config, os.environ)


def _status(places: list[Path], options: argparse.Namespace) -> int:
    status = remote.ask_once(places, "status")["status"]
    if options.json:
        _print(json.dumps(status, indent=2).replace("\x7f", "\\u007f"))
    else:
        _print("\n".join(status_view.lines(status)))
    return 0


def _top(places: list[Path], options: argparse.Namespace) -> int:
    from .top import top  # noqa: PLC0415 - brings in termios, which no other command needs

    return top(places, options.interval)


def _reload(places: list[Path], options: argparse.Namespace) -> int:
    return _ask_and_wait(places, "reload", wait=options.wait)


def _upgrade(places: list[Path], options: argparse.Namespace) -> int:
    return _ask_and_wait(places, "upgrade", wait=options.wait)


def _ask_and_wait(places: list[Path], do: str, *, wait: bool) -> int:
    """With `wait` until the new generation or master serves; the daemon's own deadlines bound that."""
    with remote.connect(places) as connection:
        for answer in connection.ask(do, patience=None, wait=wait):
            if "line" in answer:
                _print(escape_text(answer["line"]))
    return 0


def _scale(places: list[Path], options: argparse.Namespace) -> int:
    text = options.number
    fields = {"by": int(text)} if text[0] in "+-" else {"to": int(text)}
    wanted = remote.ask_once(places, "scale", **fields)["wanted"]
    _print(escape_text(f"{wanted} {'child' if wanted == 1 else 'children'} wanted"))
    return 0


def _stop(places: list[Path], options: argparse.Namespace) -> int:
    with remote.connect(places) as connection:
        for _ in connection.ask("stop", patience=None, fast=options.fast, wait=options.wait):
            pass
        if options.wait:
            connection.wait_gone()
    return 0


def _stacks(places: list[Path], options: argparse.Namespace) -> int:
    texts: dict[str, list[str]] = {}  # by child: they answer at the same time
    with remote.connect(places) as connection:
        for answer in connection.ask("stacks", patience=None):
            if answer.get("event") == "stack":
                texts.setdefault(f"{answer['child']} (pid {answer['pid']})", []).append(answer["text"])
    for who in sorted(texts):
        _print(f"=== {escape_text(who)} ===")
        for text in texts[who]:
            _print("\n".join(map(escape_text, text.splitlines())))
        _print("")
    return 0


_DO: Final = {
    "status": _status,
    "top": _top,
    "reload": _reload,
    "scale": _scale,
    "stop": _stop,
    "stacks": _stacks,
    "upgrade": _upgrade,
}


def _parser(name: str, description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"serverd {name}", description=description, allow_abbrev=False)
    parser.add_argument(
        "-c", "--config", metavar="FILE", help="the daemon's configuration; default: server.yaml"
    )
    parser.add_argument("--control", metavar="PATH", help="its control socket, in place of its configuration")
    if name == "status":
        parser.add_argument("--json", action="store_true", help="for programs")
    elif name == "top":
        parser.add_argument(
            "--interval", type=_interval, default=_INTERVAL, metavar="DURATION", help="default: 1s"
        )
    elif name in ("reload", "upgrade"):
        what = "generation" if name == "reload" else "master"
        parser.add_argument(
            "--wait", action="store_true", help=f"until the new {what} serves; exit status 1 if it cannot"
        )
    elif name == "stop":
        parser.add_argument("--fast", action="store_true", help="cut off the requests in flight")
        parser.add_argument(
            "--no-wait", dest="wait", action="store_false", help="return when the order is taken"
        )
    elif name == "scale":
        # A number that begins with a minus is a number here, as no option of ours looks like one.
        parser.add_argument("number", type=_number, metavar="±N|N", help="+1, -1, or how many")
    return parser


def _number(text: str) -> str:
    if not re.fullmatch(r"[+-]?[0-9]{1,4}", text) or not int(text):
        raise argparse.ArgumentTypeError(f'expected +N, -N or N, such as +1, -1 or 4, got "{text}"')
    return text


def _interval(text: str) -> float:
    try:
        seconds = parse_duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    if seconds < _SHORTEST_INTERVAL:
        raise argparse.ArgumentTypeError(f"expected at least {_SHORTEST_INTERVAL:g} s")
    return seconds


def _print(text: str) -> None:
    sys.stdout.write(text.encode(errors="backslashreplace").decode() + "\n")
    sys.stdout.flush()


def _fail(name: str, problem: str, status: int) -> int:
    sys.stderr.write(f"serverd {name}: {escape_text(problem)}\n")
    return status
