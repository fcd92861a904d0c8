"""Reading a good configuration: every key, paths, variables, YAML's own features, and which source counts most."""

import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serverd.config import (
    ConfigError,
    ServerConfig,
    SystemdAddress,
    TcpAddress,
    ThreadRange,
    UnixAddress,
    WorkersConfig,
    load,
)
from serverd.config import model as model_module
from serverd.config.model import LimitsConfig, TimeoutsConfig
from serverd.config.source import expand

EVERYTHING = """
app: notes.main:create.app()
app_dir: code
interface: asgi
env: {DATABASE: notes.db, DEBUG: 1, RATIO: 1.50, MODE: 0644, NONE:, YES: yes, WHEN: 2026-01-31}
listen: ["127.0.0.1:8000", "[::1]:8000", "unix:run/app.sock", systemd]
workers:
  processes: 2
  threads: 8
  mode: sync
  async_paths: []
  start_method: spawn
  max_requests: 0
  max_requests_jitter: 0
  max_rss: 0
  max_growth: 0
  max_lifetime: 0
  root_path: /api
timeouts:
  {boot: 90s, head: 5s, body: 1m, keep_alive: 1500ms, write: 30, request: 0, stuck: 0, lame_duck: 0, graceful: 1m30s}
limits: {line: 4KiB, head: 16KiB, headers: 50, body: 1GB, buffered_body: 64KiB, connections: 500, backlog: 128}
reload:
  {enabled: true, dirs: [code, .], include: ["*.py", "*.html"], exclude: "test_*", debounce: 50ms, canary: 0,
   warmup: []}
tls:
proxy: {trusted: 127.0.0.1, protocol: false}
logging: {level: debug, format: text, access: off}
admin: null
control: ~
process: {user: 65534, group: null, umask: 022, pidfile: run/app.pid, title: 2026}
"""


def write(folder: Path, text: str) -> Path:
    file = folder / "server.yaml"
    file.write_text(text, encoding="utf-8")
    return file


def test_every_key_of_the_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "code").mkdir()
    config = load(write(tmp_path, EVERYTHING), environ={})
    assert config == ServerConfig(
        app="notes.main:create.app()",
        app_dir=tmp_path / "code",
        interface="asgi",
        env={
            "DATABASE": "notes.db",
            "DEBUG": "1",
            "RATIO": "1.50",
            "MODE": "0644",
            "NONE": "",
            "YES": "yes",
            "WHEN": "2026-01-31",
        },
        listen=(
            TcpAddress("127.0.0.1", 8000),
            TcpAddress("::1", 8000),
            UnixAddress(tmp_path / "run/app.sock"),
            SystemdAddress(),
        ),
        workers=WorkersConfig(processes=2, threads=8, start_method="spawn", root_path="/api"),
        timeouts=TimeoutsConfig(boot=90, head=5, body=60, keep_alive=1.5, write=30, request=0, graceful=90),
        limits=LimitsConfig(
            line=4096, head=16_384, headers=50, body=10**9, buffered_body=65_536, connections=500, backlog=128
        ),
        reload=model_module.ReloadConfig(
            enabled=True,
            dirs=(tmp_path / "code", tmp_path),
            include=("*.py", "*.html"),
            exclude=("test_*",),
            debounce=0.05,
        ),
        logging=model_module.LoggingConfig(level="debug", format="text", access=False),
        process=model_module.ProcessConfig(
            user="65534", umask=0o022, pidfile=tmp_path / "run/app.pid", title="2026"
        ),
        source=tmp_path / "server.yaml",
    )


def test_what_is_not_said_has_its_default_and_paths_start_at_the_file(tmp_path: Path) -> None:
    config = load(write(tmp_path, "app: main:app\nworkers:\nreload:\n"), environ={})
    assert config == ServerConfig(
        app="main:app",
        app_dir=tmp_path,
        reload=model_module.ReloadConfig(dirs=(tmp_path,)),
        source=tmp_path / "server.yaml",
    )


def test_a_configuration_can_be_sent_to_another_process(tmp_path: Path) -> None:
    config = load(write(tmp_path, EVERYTHING.replace("code", ".")), environ={})
    assert pickle.loads(pickle.dumps(config)) == config  # noqa: S301 - our own


def test_without_a_file_paths_start_at_the_current_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = load(None, app="main:app", environ={})
    assert (config.app, config.app_dir, config.source) == ("main:app", tmp_path, None)
    assert config == ServerConfig(app="main:app")


def test_a_link_in_a_path_is_left_to_be_followed_at_each_reload(tmp_path: Path) -> None:
    for release in ("one", "two"):
        (tmp_path / release).mkdir()
    (tmp_path / "current").symlink_to("one")
    config = load(write(tmp_path, "app: main:app\napp_dir: current/../current\n"), environ={})
    assert config.app_dir == tmp_path / "current"


@pytest.mark.parametrize(
    ("processes", "threads", "cpus", "without_gil", "expected"),
    [
        ("auto", "auto", 8, True, (1, 16)),
        ("auto", "auto", 8, False, (8, 16)),
        ("auto", "auto", 1, True, (1, 4)),
        (3, 5, 8, True, (3, 5)),
        (2, ThreadRange(min=2, max=9), 8, True, (2, 2)),
    ],
)
def test_what_auto_means(
    processes: int,
    threads: int,
    cpus: int,
    without_gil: bool,
    expected: object,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("os.process_cpu_count", lambda: cpus)
    monkeypatch.setattr(model_module, "free_threaded", lambda: without_gil)
    workers = WorkersConfig(processes=processes, threads=threads)
    assert (workers.process_count(), workers.thread_count()) == expected


def threads_of(path: Path | None, *overrides: str, **environ: str) -> object:
    return load(path, app=None if path else "main:app", overrides=overrides, environ=environ).workers.threads


def test_precedence_command_line_environment_file_default(tmp_path: Path) -> None:
    bare, full = tmp_path / "bare.yaml", tmp_path / "full.yaml"
    bare.write_text("app: main:app\n")
    full.write_text("app: main:app\nworkers: {threads: 3}\n")
    assert threads_of(bare) == "auto"
    assert threads_of(full) == 3
    assert threads_of(full, SERVERD_WORKERS__THREADS="4") == 4
    assert threads_of(full, "workers.threads=5", SERVERD_WORKERS__THREADS="4") == 5
    assert threads_of(full, "workers.threads=5", "workers.threads=6") == 6
    assert threads_of(full, SERVERD_WORKERS__THREADS="") == 3
    assert threads_of(None, "workers={threads: 7}") == 7


def test_the_application_of_the_command_line_counts_most(tmp_path: Path) -> None:
    file = write(tmp_path, "app: main:app\n")
    assert load(file, app="other:app", overrides=["app=third:app"], environ={}).app == "other:app"
    assert load(file, overrides=["app=third:app"], environ={"SERVERD_APP": "fourth:app"}).app == "third:app"


@pytest.mark.parametrize(
    ("environ", "listen"),
    [
        ({}, "127.0.0.1:1"),
        ({"PORT": ""}, "127.0.0.1:1"),
        ({"PORT": "5000"}, "0.0.0.0:5000"),
        ({"PORT": "5000", "SERVERD_LISTEN": "127.0.0.1:2"}, "127.0.0.1:2"),
        ({"SERVERD_LISTEN": "[::1]:2"}, "[::1]:2"),
        ({"SERVERD_LISTEN": '["[::1]:2", "127.0.0.1:3"]'}, "[::1]:2 127.0.0.1:3"),
        # What Kubernetes sets in every pod when a service is called serverd.
        ({"SERVERD_PORT": "tcp://10.0.0.1:80", "SERVERD_SERVICE_HOST": "10.0.0.1", "SERVERD_PORT_80_TCP": "x"},
         "127.0.0.1:1"),
    ],
)  # fmt: skip
def test_where_it_listens_by_the_environment(tmp_path: Path, environ: dict[str, str], listen: str) -> None:
    config = load(write(tmp_path, "app: main:app\nlisten: 127.0.0.1:1\n"), environ=environ)
    assert " ".join(map(str, config.listen)) == listen


def test_processes_by_the_environment(tmp_path: Path) -> None:
    file = write(tmp_path, "app: main:app\n")
    assert load(file, environ={"WEB_CONCURRENCY": "3"}).workers.processes == 3
    both = {"WEB_CONCURRENCY": "3", "SERVERD_WORKERS__PROCESSES": "4"}
    assert load(file, environ=both).workers.processes == 4


def test_variables_of_the_application_are_merged_and_keep_their_case(tmp_path: Path) -> None:
    file = write(tmp_path, "app: main:app\nenv: {A: file, B: file}\n")
    config = load(
        file, overrides=["env.C.d=set"], environ={"SERVERD_ENV__B": "e", "SERVERD_ENV__My__Var": "[x"}
    )
    assert config.env == {"A": "file", "B": "e", "My__Var": "[x", "C.d": "set"}


def test_values_of_the_command_line_need_no_quoting_against_yaml(tmp_path: Path) -> None:
    texts = [
        "env.A=#fff",
        "env.B=a: b",
        "env.C=*",
        'env.D="null"',
        "env.E=null",
        "env.F=${HOME}",
        "env.G= x=y ",
    ]
    config = load(None, app="main:app", overrides=texts, environ={"HOME": "/h"})
    assert config.env == {
        "A": "#fff",
        "B": "a: b",
        "C": "*",
        "D": "null",
        "E": "",
        "F": "${HOME}",
        "G": "x=y",
    }


def test_paths_of_the_command_line_start_at_the_current_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    (here / "code").mkdir(parents=True)
    there.mkdir()
    monkeypatch.chdir(here)
    file = write(there, "app: main:app\n")
    overrides = ["app_dir=code", "listen=unix:a.sock", 'reload.dirs=["code"]']
    config = load(file, overrides=overrides, environ={"SERVERD_PROCESS__PIDFILE": "x.pid"})
    assert config.app_dir == here / "code"
    assert config.listen == (UnixAddress(here / "a.sock"),)
    assert config.reload.dirs == (here / "code",)
    assert config.process.pidfile == here / "x.pid"
    assert load(there / "../there/server.yaml", environ={}).app_dir == there


def test_anchors_merge_keys_and_a_byte_order_mark(tmp_path: Path) -> None:
    text = """\ufeffapp: main:app
timeouts: &base {head: 1s, body: &short 2s, write: *short}
limits:
  <<: {line: 1KiB, headers: 5}
  headers: 7
"""
    config = load(write(tmp_path, text), environ={})
    assert (config.timeouts.head, config.timeouts.body, config.timeouts.write) == (1, 2, 2)
    assert (config.limits.line, config.limits.headers) == (1024, 7)


def test_of_several_merged_groups_the_first_counts(tmp_path: Path) -> None:
    text = "app: main:app\nlimits:\n  <<: [{headers: 5}, {headers: 6, backlog: 9}]\n"
    config = load(write(tmp_path, text), environ={})
    assert (config.limits.headers, config.limits.backlog) == (5, 9)


def test_variables_are_expanded_whatever_the_quoting(tmp_path: Path) -> None:
    text = """
app: ${MODULE}:app
workers: {threads: "${THREADS:-6}", processes: '${WEB:-2}'}
process:
  title: ${EMPTY:-}
  user: ${NOBODY:-null}
env:
  URL: "postgres://u:${PASSWORD}@h/${NAME:-db}"
  PRICE: $$5 $6 $$$$ $
  TWICE: ${NESTED}
"""
    environ = {"MODULE": "main", "PASSWORD": "p#w: x", "EMPTY": "", "NESTED": "${MODULE}", "WEB": ""}
    config = load(write(tmp_path, text), environ=environ)
    assert (config.app, config.workers.threads, config.workers.processes) == ("main:app", 6, 2)
    assert (config.process.title, config.process.user) == (None, None)
    assert config.env == {"URL": "postgres://u:p#w: x@h/db", "PRICE": "$5 $6 $$ $", "TWICE": "${MODULE}"}


@given(st.text())
def test_any_text_survives_expansion_when_its_dollars_are_doubled(text: str) -> None:
    assert expand(text.replace("$", "$$"), {}) == text


@given(st.binary(max_size=200))
def test_any_file_is_read_or_refused_in_words(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    file = tmp_path_factory.getbasetemp() / "any.yaml"
    file.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load(file, environ={})
    assert all(str(problem).startswith(str(file)) for problem in caught.value.problems)
    assert all(problem.message.isprintable() for problem in caught.value.problems)


def test_reading_again_sees_what_has_changed(tmp_path: Path) -> None:
    file = write(tmp_path, "app: main:app\n")
    assert load(file, environ={}).app == "main:app"
    write(tmp_path, "app: other:app\n")
    assert load(file, environ={}).app == "other:app"
