"""The child process of `serverd check`: imports the application and says what it found, on one line of JSON.

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


def main() -> None:
    """Load, answer, end."""
    answer = _load(pickle.load(sys.stdin.buffer))  # noqa: S301 - written by the parent, on a pipe of its own
    with open(int(sys.argv[1]), "w", encoding="utf-8") as file:
        json.dump(answer, file)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _load(config: ServerConfig) -> dict[str, str]:
    os.environ.update(config.env)
    try:
        loaded = load_app(config)
    except AppLoadError as error:
        return {"error": str(error), "traceback": error.traceback}
    return {"name": loaded.name, "interface": loaded.interface, "gil_culprit": loaded.gil_culprit or ""}


if __name__ == "__main__":
    main()
