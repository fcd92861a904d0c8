"""WebSocket (RFC 6455, RFC 7692) for ASGI applications, on the sans-I/O side of the ``websockets`` library.

``handshake`` and ``session`` see bytes only; ``cycle`` joins them to a connection, its event loop and the application.
"""

from .cycle import WebSocketCycle

__all__ = ["WebSocketCycle"]
