"""From ``module:attribute`` in the configuration to an application object, and what kind of application it is.

Promises: one line that says what could not be found and what to do (``AppLoadError``), with the application's own
traceback when its import failed. Refuses: ASGI 2 double callables, which it recognizes.
"""

from __future__ import annotations

import importlib
import inspect
import re
import sys
import traceback
import warnings
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Literal
from wsgiref.types import WSGIApplication as WSGIApp

from ..config import ServerConfig
from .sync_app import SyncApp

ASGIApp = Callable[
    [dict[str, Any], Callable[[], Awaitable[dict[str, Any]]], Callable[[dict[str, Any]], Awaitable[None]]],
    Awaitable[None],
]
Interface = Literal["asgi", "wsgi", "sync"]

__all__ = ["ASGIApp", "AppLoadError", "LoadedApp", "WSGIApp", "load_app", "no_asgi"]

# What CPython says when an extension module switches the GIL on (Python/import.c, PEP 703).
_GIL_WARNING = re.compile(r"\(GIL\) has been enabled to load module '([^']+)'")


_OURS = frozenset({__file__, importlib.__file__})


class AppLoadError(Exception):
    """The application cannot be loaded. The text is one line; ``traceback`` is the application's own, or empty."""

    def __init__(self, message: str, traceback: str = "") -> None:
        super().__init__(message)
        self.traceback = traceback


@dataclass(frozen=True, slots=True)
class LoadedApp:
    """``app`` is called for ASGI, ``sync_app`` for requests that it can take without; with ``wsgi_app`` there is
    neither (``app`` is ``no_asgi``). ``gil_culprit`` is the module that switched the GIL on while loading, if one did.
    """

    name: str
    interface: Interface
    app: ASGIApp
    sync_app: SyncApp | None
    gil_culprit: str | None
    wsgi_app: WSGIApp | None = None


def load_app(config: ServerConfig) -> LoadedApp:
    """Import the application that ``config.app`` names, from ``config.app_dir`` first. Raises AppLoadError."""
    module_name, _, attribute = config.app.partition(":")
    factory = attribute.endswith("()")
    attribute = attribute.removesuffix("()") or "app"
    app_dir = str(config.app_dir)
    if app_dir not in sys.path:
        sys.path.insert(0, app_dir)
    with warnings.catch_warnings(record=True) as caught:
        module = _import(module_name, app_dir)
        app = _attribute(module, module_name, attribute)
        if factory:
            app = _build(app, config.app)
    culprit = _replay(caught)
    interface = config.interface if config.interface != "auto" else _detect(app, config.app)
    sync_app = app if isinstance(app, SyncApp) else None
    if interface == "sync":
        if sync_app is None:
            raise AppLoadError(f"app: {config.app} has no handle_sync method: set interface: asgi, or auto")
        if config.workers.mode == "async":
            raise AppLoadError(
                f"app: {config.app} is called as handle_sync, which blocks: set workers.mode: sync"
            )
        return LoadedApp(config.app, "sync", app if callable(app) else no_asgi, sync_app, culprit)
    if not callable(app):
        raise AppLoadError(
            f"app: {config.app} is a {type(app).__name__}, not a callable: name the application object"
        )
    if interface == "wsgi":
        if config.workers.mode == "async":
            raise AppLoadError(
                f"app: {config.app} is a WSGI application, which blocks: set workers.mode: sync, or name an ASGI one"
            )
        return LoadedApp(config.app, "wsgi", no_asgi, None, culprit, wsgi_app=app)
    return LoadedApp(config.app, "asgi", app, sync_app, culprit)


def _import(name: str, app_dir: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as exc:
        if exc.name is not None and (name == exc.name or name.startswith(f"{exc.name}.")):
            raise AppLoadError(
                f"app: no module named {exc.name!r} (looked in {app_dir} first): check app and app_dir, or install it"
            ) from exc
        raise AppLoadError(
            f"app: {name} needs the module {exc.name!r}, which is not installed here", _traceback(exc)
        ) from exc
    except BaseException as exc:
        raise AppLoadError(
            f"app: importing {name} failed: {type(exc).__name__}: {_first_line(exc)}", _traceback(exc)
        ) from exc


def _attribute(module: Any, module_name: str, path: str) -> Any:
    found = module
    for part in path.split("."):
        try:
            found = getattr(found, part)
        except AttributeError as exc:
            callables = [name for name, value in vars(module).items() if callable(value) and name[0] != "_"]
            hint = f"; it has {', '.join(sorted(callables)[:5])}" if callables else ""
            raise AppLoadError(f"app: the module {module_name} has no attribute {path!r}{hint}") from exc
    return found


def _build(factory: Any, name: str) -> Any:
    try:
        return factory()
    except BaseException as exc:
        raise AppLoadError(
            f"app: the factory {name} failed: {type(exc).__name__}: {_first_line(exc)}",
            _traceback(exc),
        ) from exc


def _detect(app: Any, name: str) -> Literal["asgi", "wsgi", "sync"]:
    """What ``app`` is: a coroutine function is ASGI, a plain function or object with two parameters WSGI."""
    call = app if inspect.isfunction(app) or inspect.ismethod(app) else getattr(app, "__call__", None)  # noqa: B004
    if inspect.isclass(app):
        raise AppLoadError(f"app: {name} is a class: name an instance of it, or a factory as {name}()")
    if inspect.iscoroutinefunction(call):
        return "asgi"
    if isinstance(app, SyncApp) and (call is None or not callable(app)):
        return "sync"
    try:
        positional = [
            parameter
            for parameter in inspect.signature(app).parameters.values()
            if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
            and parameter.default is parameter.empty
        ]
    except TypeError, ValueError:
        return "asgi"
    if len(positional) == 2:
        return "wsgi"
    if len(positional) == 1:
        raise AppLoadError(
            f"app: {name} takes one argument: ASGI 2 is not supported, or it is a factory ({name}())"
        )
    return "asgi"


async def no_asgi(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Stands in for the ASGI side that a pure SyncApp, or a WSGI application, does not have."""
    if scope["type"] == "lifespan":
        raise RuntimeError("no lifespan")
    raise RuntimeError("handle_sync returned None, and the application has no ASGI side to take the request")


def _replay(caught: list[warnings.WarningMessage]) -> str | None:
    """Show the warnings of the import after all; the name of the module that switched the GIL on, if one did."""
    culprit = None
    for warning in caught:
        match = _GIL_WARNING.search(str(warning.message))
        if match:
            culprit = culprit or match[1]
        else:
            warnings.showwarning(warning.message, warning.category, warning.filename, warning.lineno)
    return culprit


def _traceback(exc: BaseException) -> str:
    """The traceback as the application's author wants it: without our frames and the import machinery's."""
    told = traceback.TracebackException.from_exception(exc)
    told.stack = traceback.StackSummary.from_list(
        [
            frame
            for frame in told.stack
            if not frame.filename.startswith("<frozen ") and frame.filename not in _OURS
        ]
    )
    return "".join(told.format())


def _first_line(exc: BaseException) -> str:
    return str(exc).strip().partition("\n")[0] or "(no message)"
