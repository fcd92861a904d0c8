"""WSGI (PEP 3333) on the worker threads: ``WsgiRunner`` calls the application for one request at a time."""

from .runner import WsgiRunner

__all__ = ["WsgiRunner"]
