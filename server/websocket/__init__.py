"""WebSocket (RFC 6455, RFC 7692) for ASGI applications, on the sans-I/O side of the ``websockets`` library.

``handshake``, ``frames`` and ``session`` see bytes only. ``inbound`` reads them from a connection, ``keepalive`` asks
whether the client is still there, and ``cycle`` is what the application sends and how it all ends.
"""

from .cycle import WebSocketCycle

__all__ = ["WebSocketCycle"]
