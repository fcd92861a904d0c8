"""Finding the application: what is found, and one helpful line for everything that is not."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from serverd.config import ServerConfig, WorkersConfig
from serverd.server.app_loader import AppLoadError, LoadedApp, load_app, no_asgi

SOURCE = """
async def app(scope, receive, send): ...

class Callable:
    async def __call__(self, scope, receive, send): ...

class Plain:
    def __call__(self, scope, receive, send): return app(scope, receive, send)

class Sync:
    def handle_sync(self, request): ...

class Both(Sync, Callable): ...

def wsgi(environ, start_response): ...

class Flaskish:
    def __call__(self, environ, start_response): ...

flaskish = Flaskish()

def build(): return app

def build_wsgi(): return flaskish

def either(*args): ...

def broken_build(): raise ValueError("no database")

def old(scope): ...

instance, plain, sync, both, number = Callable(), Plain(), Sync(), Both(), 3

class holder:
    inner = app
"""


@pytest.fixture
def app_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "loadable.py").write_text(SOURCE)
    (tmp_path / "failing.py").write_text("import loadable\n1 / 0\n")
    (tmp_path / "needy.py").write_text("import a_module_that_is_not_there\n")
    (tmp_path / "leaving.py").write_text("raise SystemExit(7)\n")
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path
    for name in ("loadable", "failing", "needy", "leaving"):
        sys.modules.pop(name, None)


def load(app_dir: Path, name: str, interface: str = "auto") -> LoadedApp:
    return load_app(replace(ServerConfig(app=name), app_dir=app_dir, interface=interface))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "interface", "has_sync"),
    [
        ("loadable:app", "asgi", False),
        ("loadable", "asgi", False),
        ("loadable:instance", "asgi", False),
        ("loadable:plain", "asgi", False),
        ("loadable:holder.inner", "asgi", False),
        ("loadable:build()", "asgi", False),
        ("loadable:sync", "sync", True),
        ("loadable:both", "asgi", True),
    ],
)
def test_applications(app_dir: Path, name: str, interface: str, has_sync: bool) -> None:
    loaded = load(app_dir, name)
    assert (loaded.name, loaded.interface, loaded.sync_app is not None) == (name, interface, has_sync)
    assert callable(loaded.app)
    assert sys.path[0] == str(app_dir)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("absent:app", ["no module named 'absent'", "check app and app_dir"]),
        ("loadable.sub:app", ["no module named 'loadable.sub'"]),
        ("loadable:absent", ["module loadable has no attribute 'absent'", "it has "]),
        ("failing:app", ["importing failing failed: ZeroDivisionError"]),
        ("needy:app", ["needs the module 'a_module_that_is_not_there'", "not installed"]),
        ("leaving:app", ["importing leaving failed: SystemExit: 7"]),
        ("loadable:broken_build()", ["factory loadable:broken_build() failed: ValueError: no database"]),
        ("loadable:number", ["is a int, not a callable"]),
        ("loadable:Flaskish", ["is a class"]),
        ("loadable:old", ["takes one argument"]),
        ("loadable:Callable", ["is a class"]),
    ],
)
def test_one_line_for_what_cannot_be_loaded(app_dir: Path, name: str, words: list[str]) -> None:
    with pytest.raises(AppLoadError) as error:
        load(app_dir, name)
    text = str(error.value)
    assert text.startswith("app: ")
    assert "\n" not in text
    for word in words:
        assert word in text


def test_a_failed_import_brings_its_traceback(app_dir: Path) -> None:
    with pytest.raises(AppLoadError) as error:
        load(app_dir, "failing:app")
    assert "failing.py" in error.value.traceback
    assert "ZeroDivisionError" in error.value.traceback
    assert "app_loader" not in error.value.traceback
    assert "importlib" not in error.value.traceback


@pytest.mark.parametrize(
    ("name", "interface"),
    [
        ("loadable:wsgi", "auto"),
        ("loadable:flaskish", "auto"),
        ("loadable:build_wsgi()", "auto"),
        ("loadable:either", "wsgi"),
    ],
)
def test_wsgi_applications(app_dir: Path, name: str, interface: str) -> None:
    loaded = load(app_dir, name, interface)
    assert (loaded.interface, loaded.app, loaded.sync_app) == ("wsgi", no_asgi, None)
    assert callable(loaded.wsgi_app)


def test_what_says_nothing_of_its_parameters_is_taken_for_asgi(app_dir: Path) -> None:
    assert load(app_dir, "loadable:either").wsgi_app is None


def test_wsgi_does_not_go_with_mode_async(app_dir: Path) -> None:
    config = ServerConfig(app="loadable:wsgi", app_dir=app_dir, workers=WorkersConfig(mode="async"))
    with pytest.raises(AppLoadError, match="which blocks"):
        load_app(config)


def test_interface_sync_needs_handle_sync(app_dir: Path) -> None:
    with pytest.raises(AppLoadError, match="has no handle_sync method"):
        load(app_dir, "loadable:app", "sync")
