"""`python -m serverd`: the same as the `serverd` command, for places where only the interpreter is on PATH."""

from serverd.supervisor.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
