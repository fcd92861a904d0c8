"""serverd: a multi-worker daemon for Python web applications on free-threaded CPython.

This package holds the version and nothing else: importing it starts no thread, opens no file and pulls in no other
module of ours. The rooms are `serverd.config`, `serverd.server` and `serverd.supervisor`.
"""

__version__ = "0.1.0"
