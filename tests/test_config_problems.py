"""Every way in which a configuration can be wrong, with the exact line that a person reads."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serverd.config import ConfigError, ServerConfig, load
from serverd.config.layers import every_key
from serverd.config.source import MAX_BYTES

DURATION = "expected a duration such as 30s, 5m, 1h30m, 200ms or a number of seconds"
SIZE = "expected a size such as 8KiB, 10MiB, 1GB or a number of bytes"
THREADS = 'expected a whole number from 1 to 1024 or "auto"'
HOST_PORT = (
    "expected host:port, such as 127.0.0.1:80 (this machine only), 0.0.0.0:80 (every IPv4 address) "
    "or [::]:80; or unix:PATH, fd://N, systemd"
)


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def problems(text: str | bytes, *overrides: str, **environ: str) -> list[str]:
    """The lines that are said about server.yaml with this text."""
    content = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
    Path("server.yaml").write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load("server.yaml", overrides=overrides, environ=environ)
    assert str(caught.value).splitlines() == [str(problem) for problem in caught.value.problems]
    return [str(problem) for problem in caught.value.problems]


VALUES = [
    # the application and where it is
    ("app: main", "1:6: app: expected module:attribute or module:factory(), got \"main\""),
    ("app: main:app(1)", "1:6: app: expected module:attribute or module:factory(), got \"main:app(1)\""),
    ("app: [main:app]", "1:6: app: expected module:attribute or module:factory(), got a list"),
    ("app:", "1:5: app: expected module:attribute or module:factory(), got nothing"),
    ("app: {a: b}", "1:6: app: expected module:attribute or module:factory(), got a group of keys"),
    ("app_dir: nowhere", "1:10: app_dir: no such directory: {cwd}/nowhere"),
    ("app_dir: ''", '1:10: app_dir: expected a path, got ""'),
    ("interface: asgi3", '1:12: interface: expected auto, asgi, wsgi or sync, got "asgi3"'),
    ("env: x", '1:6: env: expected a group of NAME: text, got "x"'),
    ("env: {A=B: 1}", "1:12: env.A=B: expected the name of an environment variable, without ="),
    ("env: {A: [1]}", "1:10: env.A: expected text, got a list"),
    # where it listens
    ("listen: []", "1:9: listen: expected at least one item, got an empty list"),
    ("listen:", ("1:8: listen: expected a list, each item host:port, [IPv6]:port, unix:PATH, fd://N or systemd, "
                "got nothing")),
    ("listen: [a:1, ':80']", f'1:15: listen[1]: {HOST_PORT}, got ":80"'),
    ("listen: [a:1, {b: 2}]", ("1:15: listen[1]: expected host:port, [IPv6]:port, unix:PATH, fd://N or systemd, "
                              "got a group of keys")),
    ("listen: [a:1, a:0, b:1, a:0, a:1]", "1:30: listen[4]: a:1 is already listen[0]"),
    ("admin: {listen: '127.0.0.1:8000'}",
     "1:17: admin.listen: 127.0.0.1:8000 is already listen[0]"),
    ("listen: [unix:x, unix:./x]", "1:18: listen[1]: unix:{cwd}/x is already listen[0]"),
    ("listen: a:99999", '1:9: listen: expected host:port with a port from 0 to 65535, got "a:99999"'),
    # numbers
    ("workers: {threads: lots}", f'1:20: workers.threads: {THREADS}, got "lots"'),
    ("workers: {threads: 0}", f"1:20: workers.threads: {THREADS}, got 0"),
    ("workers: {threads: -1}", f'1:20: workers.threads: {THREADS}, got "-1"'),
    ("workers: {threads: 2.5}", f'1:20: workers.threads: {THREADS}, got "2.5"'),
    ("workers: {threads: 1e3}", f'1:20: workers.threads: {THREADS}, got "1e3"'),
    ("workers: {threads: 99999999999999999999}", f'1:20: workers.threads: {THREADS}, got "99999999999999999999"'),
    ("workers: {threads:}", f"1:19: workers.threads: {THREADS}, got nothing"),
    ("workers: {threads: {min: 4}}", "1:20: workers.threads: expected {{min: N, max: N}}"),
    ("workers: {threads: {min: a, max: 4}}",
     '1:26: workers.threads.min: expected a whole number from 1 to 1024, got "a"'),
    ("workers: {threads: {min: 5, max: 4}}", "1:20: workers.threads: expected min to be at most max, got 5 and 4"),
    ("workers: {processes: many}", f'1:22: workers.processes: {THREADS}, got "many"'),
    ("workers: {max_requests: x}", '1:25: workers.max_requests: expected a whole number of at least 0, got "x"'),
    ("limits: {headers: 0}", "1:19: limits.headers: expected a whole number from 1 to 10000, got 0"),
    ("limits: {backlog: 65536}", "1:19: limits.backlog: expected a whole number from 1 to 65535, got 65536"),
    # words
    ("workers: {mode: threads}", '1:17: workers.mode: expected sync or async, got "threads"'),
    ("workers: {start_method: exec}", '1:25: workers.start_method: expected fork or spawn, got "exec"'),
    ("workers: {start_method: spawn, preload: true}",
     ("1:41: workers.preload: needs start_method: fork, as fresh interpreters share no import; leave one of the two "
      "out")),
    ("workers: {async_paths: ws}", '1:24: workers.async_paths: expected a path that begins with /, got "ws"'),
    ("workers: {root_path: api/}", '1:22: workers.root_path: expected a path such as /api (or nothing), got "api/"'),
    ("logging: {level: loud}",
     '1:18: logging.level: expected debug, info, warning, error or critical, got "loud"'),
    ("logging: {format: xml}", '1:19: logging.format: expected auto, text, json or color, got "xml"'),
    ("logging: {access: maybe}", '1:19: logging.access: expected true or false, got "maybe"'),
    # durations and sizes
    ("timeouts: {head: 3x}", f'1:18: timeouts.head: {DURATION}, got "3x"'),
    ("timeouts: {head: -1}", f'1:18: timeouts.head: {DURATION}, got "-1"'),
    ("timeouts: {head: 2d}", '1:18: timeouts.head: expected a duration from 0 to 1d, got "2d"'),
    ("timeouts: {head: [1]}", "1:18: timeouts.head: expected a duration from 0 to 1d, got a list"),
    ("reload: {debounce: 5m}", '1:20: reload.debounce: expected a duration from 0 to 1m, got "5m"'),
    ("limits: {body: 8K}", f'1:16: limits.body: {SIZE} (write "8KiB" or "8KB"), got "8K"'),
    ("limits: {line: 1}", "1:16: limits.line: expected a size of at least 128, got 1"),
    ("limits: {line: 1MiB}", "1:16: limits.line: expected at most limits.head (32KiB), got 1MiB"),
    # what is in the file system and the user database
    ("reload: {enabled: true, dirs: [., nowhere]}", "1:35: reload.dirs[1]: no such directory: {cwd}/nowhere"),
    ("reload: {dirs: []}", "1:16: reload.dirs: expected at least one item, got an empty list"),
    ("process: {user: no-such-user}", '1:17: process.user: no such user: "no-such-user"'),
    ("process: {group: no-such-group}", '1:18: process.group: no such group: "no-such-group"'),
    ("process: {user: a b}", '1:17: process.user: expected a name or a number, got "a b"'),
    ("process: {umask: 22}", "1:18: process.umask: expected an octal number from 000 to 777, such as 022, got 22"),
    ("process: {umask: 0999}", "1:18: process.umask: expected an octal number from 000 to 777, such as 022, got 0999"),
    ("process: {title: 'a\tb'}", '1:18: process.title: expected text, got "a\\tb"'),
    # groups of keys
    ("workers: 5", "1:10: workers: expected a group of keys such as processes, got 5"),
    ("limits: [1]", "1:9: limits: expected a group of keys such as line, got a list"),
    ("tls: server.pem", '1:6: tls: expected a group of keys such as cert, got "server.pem"'),
    ("proxy: {trusted: [localhost]}",
     ("1:19: proxy.trusted[0]: expected an IP address, a network such as 10.0.0.0/8, unix, or * for every peer, "
     'got "localhost"')),
    ("proxy: {trusted: [10.1.2.3/8]}",
     '1:19: proxy.trusted[0]: expected an address without /8, or the network 10.0.0.0/8, got "10.1.2.3/8"'),
    ("proxy: {trusted: ['fe80::1%eth0']}",
     '1:19: proxy.trusted[0]: expected an IPv6 address without the zone %eth0, got "fe80::1%eth0"'),
    ("proxy: {protocol: true, trusted: []}",
     ("1:19: proxy.protocol: listen[0] would take no connection: name the proxies' addresses in proxy.trusted, "
      "or leave this out")),
    ("proxy: {protocol: true, trusted: unix}",
     ("1:19: proxy.protocol: listen[0] would take no connection: name the proxies' addresses in proxy.trusted, "
      "or leave this out")),
    ("listen: ['unix:/run/a']\nproxy: {protocol: true}",
     "2:19: proxy.protocol: listen[0] would take no connection: name unix in proxy.trusted, or leave this out"),
    ("proxy: {headers: [x-real-ip]}",
     ("1:19: proxy.headers[0]: expected forwarded, x-forwarded-for, x-forwarded-proto, x-forwarded-host or "
     'x-forwarded-port, got "x-real-ip"')),
    # keys that are not known
    ("Listen: x:1", '1:1: Listen: unknown key; did you mean "listen"?'),
    ("app-dir: x", '1:1: app-dir: unknown key; did you mean "app_dir"?'),
    ("workers: {thread: 2}", '1:11: workers.thread: unknown key; did you mean "threads"?'),
    ("threads: 8", '1:1: threads: unknown key here; did you mean "workers.threads"?'),
    ("limits: {keep_alive: 2}", '1:10: limits.keep_alive: unknown key here; did you mean "timeouts.keep_alive"?'),
    ("keepalive: 2", '1:1: keepalive: unknown key here; did you mean "timeouts.keep_alive"?'),
    ("logging: {zzz: 2}", "1:11: logging.zzz: unknown key; known here: level, format, access, query"),
    ("source: x", ("1:1: source: unknown key; known here: app, app_dir, interface, env, listen, workers, "
                  "timeouts, limits, websocket, reload, tls, proxy, logging, admin, control, process")),
    # YAML
    ("workers: {threads: 1, threads: 2}", "1:23: workers.threads: written twice (first in line 1)"),
    ("? [a, b]\n: 1", "1:3: expected a name as the key"),
    ("env: {A: !!python/object:os.system x}",
     "1:10: env.A: the tag !!python/object:os.system is not supported; write the plain value"),
    ("env: {A: !mine x}", "1:10: env.A: the tag !mine is not supported; write the plain value"),
    ("env: !!set {A}", "1:6: env: the tag !!set is not supported; write the plain value"),
    ("listen: &a [*a]", "1:9: listen[0]: this value contains itself through an alias"),
    ("workers: &a {<<: *a}", "1:10: workers: << expects an alias of a group of keys"),
    ("workers: {<<: 5}", "1:15: workers: << expects an alias of a group of keys"),
    # variables
    ("env: {A: '${NOPE}'}",
     "1:10: env.A: the environment variable NOPE is not set; set it, or give a default: ${{NOPE:-...}}"),
    ("workers: {threads: '${NOPE}'}",
     "1:20: workers.threads: the environment variable NOPE is not set; set it, or give a default: ${{NOPE:-...}}"),
    ("env: {A: '${no name}'}",
     "1:10: env.A: expected ${{NAME}} or ${{NAME:-default}}, got ${{no name}} (a plain $ is written $$)"),
    ("env: {A: 'x${B'}", "1:10: env.A: expected ${{NAME}} or ${{NAME:-default}}, got ${{ (a plain $ is written $$)"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "line"), VALUES, ids=[text for text, _ in VALUES])
def test_one_bad_thing_is_one_line(text: str, line: str) -> None:
    whole = text if text.startswith("app:") else f"{text}\napp: main:app\n"
    assert problems(whole) == ["server.yaml:" + line.format(cwd=Path.cwd())]


def test_the_application_must_be_named() -> None:
    assert problems("listen: a:1") == [
        "server.yaml: app: missing; expected module:attribute or module:factory(), such as app: main:app"
    ]
    assert problems("app: main:app\n\ntls:\n  cert: server.yaml")[0] == (
        "server.yaml:3:1: tls.key: missing; expected a path, such as key: server.key"
    )


def test_all_problems_come_at_once_in_the_order_of_the_text() -> None:
    text = """\
ap: main:app
app_dir: nowhere
listen: ["127.0.0.1:8000", ":80", "127.0.0.1:8000"]
workers:
  threads: lots
  proceses: 3
limits:
  headers: 5
  line: 1MiB
  head: much
tls: {cert: nothing.pem}
env: {A: "${NOPE}"}
"""
    got = problems(
        text, "a.b=c", "limits=5", "nonsense", SERVERD_WORKER__X="1", PORT="http", WEB_CONCURRENCY="0"
    )
    assert got == [
        "server.yaml: app: missing; expected module:attribute or module:factory(), such as app: main:app",
        'server.yaml:1:1: ap: unknown key; did you mean "app"?',
        f"server.yaml:2:10: app_dir: no such directory: {Path.cwd()}/nowhere",
        f'server.yaml:5:12: workers.threads: {THREADS}, got "lots"',
        'server.yaml:6:3: workers.proceses: unknown key; did you mean "processes"?',
        "server.yaml:11:1: tls.key: missing; expected a path, such as key: server.key",
        f"server.yaml:11:13: tls.cert: no such file: {Path.cwd()}/nothing.pem",
        (
            "server.yaml:12:10: env.A: the environment variable NOPE is not set; "
            "set it, or give a default: ${NOPE:-...}"
        ),
        'environment PORT: listen: expected host:port with a port from 0 to 65535, got "0.0.0.0:http"',
        f"environment WEB_CONCURRENCY: workers.processes: {THREADS}, got 0",
        'environment SERVERD_WORKER__X: worker: unknown key; did you mean "workers"?',
        'command line: expected --set KEY=VALUE such as workers.threads=8, got "nonsense"',
        "command line: limits: expected a group of keys such as line, got 5",
        (
            "command line: a: unknown key; known here: app, app_dir, interface, env, listen, workers, timeouts, "
            "limits, websocket, reload, tls, proxy, logging, admin, control, process"
        ),
    ]


KEYS = [".".join(map(str, path)) for path, _ in every_key(ServerConfig)]
SCALARS = st.sampled_from(
    [
        "x",
        "5",
        "0",
        "",
        "null",
        "true",
        "30s",
        "8KiB",
        "a:80",
        "a:b",
        "~",
        "/",
        "unix:x",
        "${X}",
        "$$",
        "-1",
        "*",
        "022",
    ]
)
TREES = st.recursive(
    SCALARS | st.none() | st.booleans() | st.integers(0, 3000),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            SCALARS | st.sampled_from(["min", "max", "threads", "cert", "<<"]), inner, max_size=3
        )
    ),
    max_leaves=6,
)


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture]
)  # the folder may be the same for all examples
@given(st.dictionaries(st.sampled_from([*KEYS, "zzz", "workers.zzz", "tls.zzz.zzz"]), TREES, max_size=6))
def test_whatever_the_values_are_the_answer_is_a_configuration_or_problems(values: dict[str, object]) -> None:
    file = Path("any.yaml")
    file.write_text(
        json.dumps({key: value for key, value in values.items() if "." not in key} or {"app": "a:b"})
    )
    overrides = [f"{key}={json.dumps(value)}" for key, value in values.items() if "." in key]
    try:
        found: object = load(file, overrides=overrides, environ={"X": "5"})
    except ConfigError as error:
        found = error.problems
    assert isinstance(found, ServerConfig) or (isinstance(found, list) and len(found) > 0)
    if isinstance(found, list):
        assert all(problem.message.isprintable() for problem in found)


def test_a_bad_value_is_not_covered_up_by_a_key_below_it() -> None:
    assert problems("app: main:app\nworkers: 5", "workers.threads=8") == [
        "server.yaml:2:10: workers: expected a group of keys such as processes, got 5"
    ]


def test_an_overriding_value_is_looked_at_although_the_one_below_it_is_bad() -> None:
    assert problems("app: main:app\nworkers: {threads: '${NOPE}'}", "workers.threads=lots")[1:] == [
        f'command line: workers.threads: {THREADS}, got "lots"'
    ]


def test_a_current_directory_that_is_gone_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("server.yaml").write_text("app: main:app")
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "server.yaml", environ={})
    assert str(caught.value) == "the current directory is gone; start serverd in a folder that stays"


def test_a_bad_head_does_not_make_a_good_line_bad() -> None:
    assert len(problems("app: main:app\nlimits: {line: 64KiB, head: much}")) == 1


@pytest.mark.parametrize("text", ["=5", ".=5", "a..b=5", "workers.=5"])
def test_a_key_on_the_command_line_must_be_one(text: str) -> None:
    assert problems("app: main:app", text) == [
        f'command line: expected --set KEY=VALUE such as workers.threads=8, got "{text}"'
    ]


def test_problems_inside_a_value_of_the_command_line() -> None:
    assert problems("app: main:app", "workers={threads: a, threads: 2}") == [
        "command line: workers.threads: written twice",
        f'command line: workers.threads: {THREADS}, got "a"',
    ]
    assert problems("app: main:app", 'listen=["a:1", "b"]')[0].startswith(
        "command line: listen[1]: expected host:port"
    )


WHOLE_FILES = [
    (b"", "server.yaml: is empty; write one with \"serverd init\""),
    (b"# nothing\n---\n", "server.yaml: is empty; write one with \"serverd init\""),
    (b"- a\n- b\n", "server.yaml:1:1: expected keys such as app: main:app at the top level, got a list"),
    (b"\nmain:app\n", "server.yaml:2:1: expected keys such as app: main:app at the top level, got a single value"),
    (b"app: main:app\nenv: {A: \xff}\n", "server.yaml:2:10: not UTF-8 text: byte 0xff"),
    (b"app: main:app\n  listen: x:1\n",
     'server.yaml:2:9: not valid YAML: mapping values are not allowed here (a value that contains ": " needs quotes)'),
    (b"app: main:app\nlimits:\n\tline: 1KiB\n",
     ("server.yaml:3:1: not valid YAML: found character '\\t' that cannot start any token, while scanning for the next "
     "token (indent with spaces, not tabs)")),
    (b"app: main:app\nworkers: {threads: ${T}}\n",
     ("server.yaml:2:21: not valid YAML: expected ',' or '}', but got '{', while parsing a flow mapping "
     "(inside { } put a value such as ${VAR} in quotes)")),
    (b"a: 'x\n",
     "server.yaml:2:1: not valid YAML: found unexpected end of stream, while scanning a quoted scalar"),
    (b"a: *b\n", "server.yaml:1:4: not valid YAML: found undefined alias 'b'"),
    (b"a: 1\n---\na: 2\n",
     ("server.yaml:2:1: not valid YAML: but found another document, expected a single document in the stream "
     "(keep one document in the file, without ---)")),
    (b"a: x\x00y\n", "server.yaml:1:5: not valid YAML: the character U+0000 is not allowed"),
    (b"a: 1\nb: \x1b[31m\n", "server.yaml:2:4: not valid YAML: the character U+001B is not allowed"),
    (b"a: " + b"[" * 5000, "server.yaml: nested deeper than 30 levels"),
    (b"a: " + b"[" * 40 + b"]" * 40, "server.yaml:1:33: a" + "[0]" * 29 + ": nested deeper than 30 levels"),
    (b"#" * (MAX_BYTES + 1), "server.yaml: is larger than 256 KiB; is this the configuration?"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("content", "line"), WHOLE_FILES, ids=[str(number) for number in range(len(WHOLE_FILES))]
)
def test_a_file_that_is_no_configuration(content: bytes, line: str) -> None:
    got = problems(content)
    # A file that is YAML also lacks an application and has unknown keys: only the line at stake is looked at.
    assert line in got
    if "YAML" in line or "top level" in line:
        assert len(got) == 1


def test_aliases_cannot_make_a_small_file_large() -> None:
    text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
    for level in range(1, 12):
        text += f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]\n"
    assert problems(text) == ["server.yaml: holds more than 20000 values"]


def test_files_that_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def said_of(path: str) -> str:
        with pytest.raises(ConfigError) as caught:
            load(path, environ={})
        return str(caught.value)

    assert said_of("none.yaml") == (
        'none.yaml: no such file; name one with -c FILE, or write one with "serverd init"'
    )
    assert said_of(".") == ".: is a directory; name the file in it"
    Path("file").touch()
    assert said_of("file/server.yaml") == "file/server.yaml: cannot be read: Not a directory"
    Path("loop").symlink_to("loop")
    assert said_of("loop") == "loop: cannot be read: Too many levels of symbolic links"
    if os.geteuid() != 0:
        Path("secret.yaml").touch(mode=0o000)
        assert said_of("secret.yaml") == "secret.yaml: cannot be read: Permission denied"
    assert said_of("a\0b").endswith("is no name of a file")


def test_a_range_of_threads_where_there_are_none() -> None:
    (line,) = problems("app: a:b\nworkers: {mode: async, threads: {min: 1, max: 2}}\n")
    assert line == (
        "server.yaml:2:33: workers.threads: a range {min, max} is for mode: sync; with mode: async there are no worker "
        "threads"
    )


def test_a_loop_that_is_not_installed_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert problems("app: a:b\nworkers: {loop: uvloop}\n") == [
        "server.yaml:2:17: workers.loop: uvloop is not installed: pip install 'serverd[uvloop]', or take asyncio"
    ]
