"""The tests of serverd; run them with `make test` or `.venv/bin/pytest`."""
