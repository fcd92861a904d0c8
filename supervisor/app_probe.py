"""The child process of `serverd check`: imports the application and says what it found, on one line of JSON.

Promises: the application is the one that would serve, with its user (`process.user`) from before its first line: it has
no more rights in a check, and what that user may not read is found here too.

Run as `python -P -m serverd.supervisor.app_probe FD`: the configuration comes pickled on standard input, from
our own parent; the answer goes to the inherited descriptor FD. One thread; ends without the application's exit
handlers, which may belong to things that were never started.
"""

import json
import os
import pickle
import sys

from ..config import ServerConfig
from ..server.app_loader import AppLoadError, load_app
from .privileges import PrivilegeError, drop, resolve


def main() -> None:
    """Load, answer, end."""
    config = pickle.load(sys.stdin.buffer)  # noqa: S301 - written by the parent, on a pipe of its own
    try:
        answer = _step_down(config) or _load(config)
    except (ImportError, LookupError) as error:  # of the interpreter's own files
        answer = {"error": f"{type(error).__name__}: {error}", "traceback": ""}
    if "error" in answer and not os.access(os.__file__, os.R_OK):
        answer["error"] = (
            f"process.user: {config.process.user} may not read the interpreter in {os.path.dirname(os.__file__)}; "
            f"install one where that user may ({answer['error']})"
        )
    with open(int(sys.argv[1]), "w", encoding="utf-8") as file:
        json.dump(answer, file)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _step_down(config: ServerConfig) -> dict[str, str]:
    """Become the application's user; what is wrong with that, or with what it may read."""
    if config.tls is not None:
        from ..config.certificates import problems  # noqa: PLC0415 - brings in ssl; before it may be out of reach
    try:
        drop(resolve(config.process), config.process.umask)
    except PrivilegeError as error:
        return {"error": str(error), "traceback": ""}
    if config.tls is not None:
        for path, message in problems(config.tls):
            return {"error": f"{'.'.join(map(str, ('tls', *path)))}: {message}", "traceback": ""}
    return {}


def _load(config: ServerConfig) -> dict[str, str]:
    os.environ.update(config.env)
    try:
        loaded = load_app(config)
    except AppLoadError as error:
        return {"error": str(error), "traceback": error.traceback}
    return {"name": loaded.name, "interface": loaded.interface, "gil_culprit": loaded.gil_culprit or ""}


if __name__ == "__main__":
    main()
