"""Helpers that several tests share: `from tests.support.NAME import ...`."""
