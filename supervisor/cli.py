"""The command line: `serverd -c server.yaml`, `serverd module:attribute`, `serverd check` and the other commands.

Promises: `main` returns the exit status (0 clean, 2 usage or configuration, 3 a child could not boot, 4 the
application could not be loaded) and never raises for what a user can get wrong; every problem is one line on
standard error. Refuses to guess: a word that is neither a command nor `module:attribute` is an error.

What is slow to import (the master, the commands) is imported when it is needed, so that `check`, `init` and
`schema` are quick.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Final, NamedTuple

from .. import __version__
from ..config import ConfigError, ServerConfig, load

USAGE_ERROR: Final = 2
DEFAULT_FILE: Final = "server.yaml"
COMMANDS: Final = {
    "check": "validate the configuration, import the application, print what is in effect",
    "init": "write a commented server.yaml",
    "schema": "print the JSON Schema of server.yaml, for editors",
    "unit": "print a systemd unit for this configuration and interpreter",
}
# They speak to a running serverd; client_commands.py has what they do.
REMOTE: Final = {
    "status": "what a running serverd is doing: its children, their requests, the last reload",
    "top": "the same, live",
    "reload": "read the configuration again and start a new generation; --wait: until it serves",
    "scale": "change the number of children: +1, -1, or the number itself; until the next reload",
    "stop": "stop, with the time for requests to finish; returns when it is gone",
    "stacks": "where every thread and every waiting request of every child is, in the code",
    "upgrade": "replace the master, with a new Python or a new serverd, without a restart",
}
# Flags that are short for --set: the option, the key, the name of the value in the help, and the help.
_SHORTHANDS: Final = (
    ("--app-dir", "app_dir", "DIR", "the folder that is first on sys.path"),
    ("--processes", "workers.processes", "N", "child processes"),
    ("--threads", "workers.threads", "N", "threads in each child"),
    ("--log-level", "logging.level", "LEVEL", "debug, info, warning, error or critical"),
)


class Sources(NamedTuple):
    """Where the configuration comes from, so that it can be read again."""

    path: str | None
    app: str | None
    overrides: tuple[str, ...]

    def load(self) -> ServerConfig:
        """The configuration as the sources are now; raises ConfigError."""
        return load(self.path, app=self.app, overrides=self.overrides, environ=os.environ)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (default: this process's own) and return the exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        if words and words[0] in COMMANDS:
            return _command(words[0], words[1:])
        if words and words[0] in REMOTE:
            from .client_commands import run  # noqa: PLC0415 - see above

            return run(words[0], words[1:], REMOTE[words[0]])
        return _serve(words)
    except SystemExit as stop:  # argparse: 0 after --help and --version, 2 after a usage error
        return stop.code if isinstance(stop.code, int) else USAGE_ERROR
    except ConfigError as error:
        return fail(str(error))
    except BrokenPipeError:
        # `serverd schema | head`: the reader has enough. Nothing more may be written, at exit neither.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130


def fail(message: str, status: int = USAGE_ERROR) -> int:
    """Say `message` on standard error; returns `status`."""
    print(message, file=sys.stderr)  # noqa: T201 - this is the place where a person is spoken to before logging exists
    return status


def _serve(words: Sequence[str]) -> int:
    options = _serve_parser().parse_args(words)
    if options.app is not None and (problem := _not_an_app(options.app)):
        return fail(problem)
    sources = _sources(options, app=options.app)
    if sources is None:
        return fail(
            f"serverd: there is no {DEFAULT_FILE} here; name an application (serverd module:attribute) or a file "
            '(-c FILE), or write one with "serverd init"'
        )
    from ..config.logs import setup_logging  # noqa: PLC0415 - only a server needs what is imported from here on
    from .master import run  # noqa: PLC0415
    from .succession import Predecessor, SuccessionError  # noqa: PLC0415

    try:
        # Before the configuration is read, as the variable of an upgrade is no key of it.
        predecessor = Predecessor.take_from(os.environ, os.getppid())
    except SuccessionError as error:
        return fail(f"serverd: {error}")
    try:
        config = sources.load()
    except ConfigError as error:
        if predecessor is not None:
            predecessor.failed(str(error).splitlines()[0])
        raise
    setup_logging(config.logging, process="master", stream=sys.stderr)
    return run(config, reload_config=sources.load, predecessor=predecessor)


def _command(name: str, words: Sequence[str]) -> int:
    from . import commands  # noqa: PLC0415 - see above
    from .unit import unit  # noqa: PLC0415

    options = _command_parser(name).parse_args(words)
    if name == "init":
        return commands.init(Path(options.path), app=options.init_app, force=options.force)
    if name == "schema":
        return commands.schema()
    sources = _sources(options, app=None)
    if sources is None:
        return fail(
            f'serverd {name}: there is no {DEFAULT_FILE} here; name a file (-c FILE), or write one with "serverd init"'
        )
    config = sources.load()
    if name == "check":
        return commands.check(config, show_env=options.show_env)
    if config.source is None:
        return fail("serverd unit: a service needs its configuration in a file (-c FILE)")
    return unit(config, sources.overrides)


def _not_an_app(word: str) -> str | None:
    """What is wrong with `word` in the place of an application, or None."""
    if ":" in word:
        return None
    if word in COMMANDS or word in REMOTE:
        return f"serverd: a command comes first: serverd {word} ..."
    near = get_close_matches(word, [*COMMANDS, *REMOTE], 1)
    if near:
        return f'serverd: no command "{word}"; did you mean "{near[0]}"?'
    known = ", ".join([*COMMANDS, *REMOTE])
    return f'serverd: expected an application as module:attribute or a command ({known}), got "{word}"'


def _sources(options: argparse.Namespace, *, app: str | None) -> Sources | None:
    """What the options say; None when neither a file nor an application is named and no file is at hand."""
    overrides = list(options.overrides)
    if options.listen:
        overrides.append(f"listen={json.dumps(options.listen)}")
    path = options.config
    if path is None and app is None:
        if os.path.lexists(DEFAULT_FILE):
            path = DEFAULT_FILE
        elif not os.environ.get("SERVERD_APP") and not any(text.startswith("app=") for text in overrides):
            return None
    return Sources(path, app, tuple(overrides))


def _serve_parser() -> argparse.ArgumentParser:
    texts = {**COMMANDS, **REMOTE}
    commands = "\n".join(f"  serverd {name:<7} {text}" for name, text in texts.items())
    parser = argparse.ArgumentParser(
        prog="serverd",
        usage="serverd [-c FILE] [module:attribute] [options]\n       serverd COMMAND [options]",
        description="Serve a Python web application with many threads in free-threaded processes.",
        epilog=f"commands:\n{commands}\n\n"
        f"With neither a file nor an application, {DEFAULT_FILE} of this folder is used.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "app", nargs="?", metavar="module:attribute", help="the application, or module:factory()"
    )
    _add_options(parser)
    parser.add_argument("--version", action="version", version=f"serverd {__version__}")
    return parser


def _command_parser(name: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"serverd {name}", description=COMMANDS[name], allow_abbrev=False)
    if name == "init":
        parser.add_argument(
            "path", nargs="?", default=DEFAULT_FILE, metavar="PATH", help=f"default: {DEFAULT_FILE}"
        )
        parser.add_argument(
            "--app", dest="init_app", default="main:app", metavar="MODULE:ATTRIBUTE", help="what to serve"
        )
        parser.add_argument("--force", action="store_true", help="overwrite the file")
    elif name != "schema":
        _add_options(parser)
    if name == "check":
        parser.add_argument(
            "--show-env", action="store_true", help="print the values of env, which may be secrets"
        )
    return parser


def _add_options(parser: argparse.ArgumentParser) -> None:
    """The options that make a configuration. Those short for --set stay in order with it: the last counts."""
    parser.add_argument("-c", "--config", metavar="FILE", help="the configuration")
    parser.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="such as workers.threads=8",
    )
    parser.add_argument(
        "--listen", action="append", metavar="ADDRESS", help="host:port, unix:PATH, fd://N; may be repeated"
    )
    for option, key, value, text in _SHORTHANDS:
        parser.add_argument(
            option,
            dest="overrides",
            action="append",
            type=_assignment(key),
            metavar=value,
            help=f"{text} ({key})",
        )
    parser.add_argument(
        "--reload",
        dest="overrides",
        action="append_const",
        const="reload.enabled=true",
        help="serve new code when a file changes",
    )


def _assignment(key: str) -> Callable[[str], str]:
    """Turns the value of a short option into text as after --set."""
    return lambda value: f"{key}={value}"
