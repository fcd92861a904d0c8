"""The command line: what each command prints, where, and the exit status; and the systemd unit that is filled in."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

import serverd
from serverd.config import ConfigError, ServerConfig, load
from serverd.config.layers import absolute
from serverd.supervisor import cli, commands, master
from serverd.supervisor.unit import UnitFile, fill_in, notes

APP = """
print("the application talks while it is imported")
async def app(scope, receive, send):
    pass
"""
TEMPLATE = (Path(serverd.__file__).parent / "systemd" / "serverd.service").read_text()


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with an application, and an environment that says nothing to serverd."""
    (tmp_path / "main.py").write_text(APP)
    monkeypatch.chdir(tmp_path)
    for name in os.environ:
        if name.startswith("SERVERD_") or name in ("PORT", "WEB_CONCURRENCY"):
            monkeypatch.delenv(name)


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[ServerConfig]:
    """What `serverd` would have served; nothing is. The master's answer is 0."""
    configs: list[ServerConfig] = []

    def run(config: ServerConfig, *, reload_config: Callable[[], ServerConfig], predecessor: None) -> int:
        assert reload_config() == config
        configs.append(config)
        return 0

    monkeypatch.setattr(master, "run", run)
    monkeypatch.setattr("serverd.config.logs.setup_logging", lambda *args, **named: None)
    return configs


def serverd_command(*words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run the real command."""
    command = [sys.executable, "-m", "serverd", *words]
    return subprocess.run(
        command, capture_output=True, text=True, env=os.environ | environ, timeout=60, check=False
    )


# Serving


def test_a_file_is_served(served: list[ServerConfig]) -> None:
    Path("my.yaml").write_text("app: main:app\nworkers: {threads: 3}\n")
    assert cli.main(["-c", "my.yaml"]) == 0
    assert served == [load("my.yaml", environ={})]
    assert served[0].workers.threads == 3


def test_the_file_of_this_folder_is_served(served: list[ServerConfig]) -> None:
    Path("server.yaml").write_text("app: main:app\n")
    assert cli.main([]) == 0
    assert served[0].source == Path.cwd() / "server.yaml"


def test_an_application_needs_no_file(served: list[ServerConfig]) -> None:
    Path("server.yaml").write_text("this file is: not looked at")
    Path("code").mkdir()
    words = ["main:app", "--listen", "127.0.0.1:0", "--listen", "[::1]:1", "--app-dir", "code", "--processes", "2",
             "--threads", "5", "--log-level", "debug", "--reload"]  # fmt: skip
    assert cli.main(words) == 0
    (config,) = served
    assert (config.app, config.app_dir, config.source) == ("main:app", Path.cwd() / "code", None)
    assert list(map(str, config.listen)) == ["127.0.0.1:0", "[::1]:1"]
    assert (config.workers.processes, config.workers.threads) == (2, 5)
    assert (config.logging.level, config.reload.enabled) == ("debug", True)


def test_an_application_beside_a_file_replaces_the_one_in_it(served: list[ServerConfig]) -> None:
    Path("my.yaml").write_text("app: other:app\nworkers: {threads: 3}\n")
    assert cli.main(["-c", "my.yaml", "main:app"]) == 0
    assert (served[0].app, served[0].workers.threads) == ("main:app", 3)


def test_the_last_of_two_says_counts(served: list[ServerConfig]) -> None:
    assert cli.main(["main:app", "--threads", "2", "--set", "workers.threads=3"]) == 0
    assert cli.main(["main:app", "--set", "workers.threads=3", "--threads", "2"]) == 0
    assert [config.workers.threads for config in served] == [3, 2]


def test_the_environment_alone_may_name_the_application(
    served: list[ServerConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SERVERD_APP", "main:app")
    assert cli.main([]) == 0
    assert cli.main(["--set", "app=other:app"]) == 0
    assert [config.app for config in served] == ["main:app", "other:app"]


def test_the_sources_are_read_again_for_a_reload(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("my.yaml").write_text("app: main:app\nworkers: {threads: 3}\n")
    seen: list[object] = []

    def run(config: ServerConfig, *, reload_config: Callable[[], ServerConfig], predecessor: None) -> int:
        Path("my.yaml").write_text("app: main:app\nworkers: {threads: 4, processes: 2}\n")
        seen.append(reload_config().workers)
        Path("my.yaml").write_text("app: main:app\nworkers: {threads: lots}\n")
        with pytest.raises(ConfigError, match=r"^my.yaml:2:20: workers.threads: expected"):
            reload_config()
        return 3

    monkeypatch.setattr(master, "run", run)
    monkeypatch.setattr("serverd.config.logs.setup_logging", lambda *args, **named: None)
    assert cli.main(["-c", "my.yaml", "--set", "workers.processes=1"]) == 3
    (workers,) = seen
    assert (workers.threads, workers.processes) == (4, 1)  # type: ignore[attr-defined]


REMOTE = ["status", "top", "reload", "stop", "stacks", "upgrade"]
NO_FILE = (
    "serverd: there is no server.yaml here; name an application (serverd module:attribute) or a file (-c FILE), "
    'or write one with "serverd init"'
)
NO_FILE_FOR = 'there is no server.yaml here; name a file (-c FILE), or write one with "serverd init"'
NO_COMMAND = "serverd: expected an application as module:attribute or a command (check, init, schema, unit, "
NO_COMMAND += "status, top, reload, scale, stop, stacks, upgrade)"
NO_DAEMON = "there is no server.yaml here; name the daemon's file (-c FILE) or its socket (--control PATH)"
NOT_AN_ASSIGNMENT = "command line: expected --set KEY=VALUE such as workers.threads=8"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([], NO_FILE),
        (["--listen", "127.0.0.1:0"], NO_FILE),
        (["check"], f"serverd check: {NO_FILE_FOR}"),
        (["unit"], f"serverd unit: {NO_FILE_FOR}"),
        (["unit", "--set", "app=a:b"], "serverd unit: a service needs its configuration in a file (-c FILE)"),
        (["-c", "none.yaml"], 'none.yaml: no such file; name one with -c FILE, or write one with "serverd init"'),
        (["check", "-c", "."], ".: is a directory; name the file in it"),
        (["statsu"], 'serverd: no command "statsu"; did you mean "status"?'),
        (["main"], f'{NO_COMMAND}, got "main"'),
        (["-c", "x", "check"], "serverd: a command comes first: serverd check ..."),
        (["main:app", "--threads", "lots"],
         'command line: workers.threads: expected a whole number from 1 to 1024 or "auto", got "lots"'),
        (["main:app", "--set", "threads"], f'{NOT_AN_ASSIGNMENT}, got "threads"'),
        (["main:app", "--app-dir", "/nowhere"], "command line: app_dir: no such directory: /nowhere"),
        *[([word], f"serverd {word}: {NO_DAEMON}") for word in REMOTE],
        (["scale", "+1"], f"serverd scale: {NO_DAEMON}"),
        (["status", "-c", "x"], 'x: no such file; name one with -c FILE, or write one with "serverd init"'),
        (["-c", "x", "status"], "serverd: a command comes first: serverd status ..."),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_and_exit_status_2(
    words: list[str], line: str, served: list[ServerConfig], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(words) == 2
    assert capsys.readouterr() == ("", f"{line}\n")
    assert served == []


def test_several_problems_are_several_lines(capsys: pytest.CaptureFixture[str]) -> None:
    Path("server.yaml").write_text("app: main\nlisten: x\nworkers: {threads: lots}\n")
    assert cli.main([]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(": ")[0] for line in lines] == [
        "server.yaml:1:6",
        "server.yaml:2:9",
        "server.yaml:3:20",
    ]


@pytest.mark.parametrize("words", [["--nope"], ["check", "--nope"], ["main:app", "other:app"], ["-c"]])
def test_what_argparse_refuses_is_exit_status_2(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words) == 2
    assert "error:" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words", [["--help"], ["check", "--help"], ["init", "-h"], ["schema", "-h"], ["unit", "-h"]]
)
def test_help_is_exit_status_0(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words) == 0
    assert "usage: serverd" in re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"serverd {serverd.__version__}\n"


def test_an_interrupt_before_there_is_a_master_is_quiet(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*args: object, **named: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "load", interrupted)
    assert cli.main(["main:app"]) == 130
    assert capsys.readouterr() == ("", "")


# check


def test_check_says_what_it_found_and_prints_yaml_that_loads() -> None:
    file = Path("server.yaml")
    file.write_text("app: main:app\nenv: {SECRET: hunter2}\nworkers: {threads: 3}\n")
    file.chmod(0o640)
    done = serverd_command("check", "--processes", "2")
    assert (done.returncode, done.stderr) == (0, "the application talks while it is imported\n")
    first = done.stdout.splitlines()[0]
    assert first.startswith("# ok: main:app is an ASGI application, imported in ")
    assert "hunter2" not in done.stdout
    Path("again.yaml").write_text(done.stdout)
    config = load("again.yaml", environ={})
    assert (config.workers.threads, config.workers.processes, config.app_dir) == (3, 2, Path.cwd())


def test_check_hints_at_secrets_that_everybody_may_read(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    file = Path("server.yaml")
    file.write_text("app: main:app\nenv: {DB_PASSWORD: hunter2, API_KEY: '${GIVEN}', PLAIN: hunter3}\n")
    file.chmod(0o644)
    monkeypatch.setenv("GIVEN", "hunter4")
    assert cli.main(["check"]) == 0
    (line,) = [line for line in capfd.readouterr().err.splitlines() if "serverd check" in line]
    assert line.startswith(
        "serverd check: env.DB_PASSWORD stands in server.yaml, which every user of this machine"
    )
    assert "hunter" not in line
    file.chmod(0o640)
    assert cli.main(["check"]) == 0
    assert "serverd check" not in capfd.readouterr().err


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ('env: {TOKEN: "hunter2\\0"}', "hunter2"),
        ("env: {TOKEN: [hunter2]}", "hunter2"),
        ("env: {TOKEN: {hunter2: 1}}", "hunter2"),
        ('"evil\\e[2J\\nkey": 1', "\x1b"),
    ],
)
def test_no_problem_shows_a_value_of_env_or_acts_on_a_terminal(
    text: str, secret: str, capfd: pytest.CaptureFixture[str]
) -> None:
    Path("server.yaml").write_text(f"app: main:app\n{text}\n")
    assert cli.main(["check"]) == 2
    said = capfd.readouterr().err
    assert said.count("\n") == 1
    assert secret not in said


def test_check_shows_the_environment_on_request(capfd: pytest.CaptureFixture[str]) -> None:
    Path("server.yaml").write_text("app: main:app\nenv: {SECRET: hunter2}\n")
    assert cli.main(["check", "--show-env"]) == 0
    assert yaml.safe_load(capfd.readouterr().out)["env"] == {"SECRET": "hunter2"}


def test_check_imports_with_the_environment_and_the_folder_of_the_configuration(
    capfd: pytest.CaptureFixture[str],
) -> None:
    Path("code").mkdir()
    Path("code/helper.py").write_text("")
    Path("code/other.py").write_text(
        "import os, sys, helper\nassert os.environ['A'] == 'b'\nassert sys.stdin.read() == ''\n" + APP
    )
    Path("helper.py").write_text("raise Exception('the current folder is not where modules come from')")
    Path("server.yaml").write_text("app: other:app\napp_dir: code\nenv: {A: b}\n")
    assert cli.main(["check"]) == 0
    assert "# ok: other:app is an ASGI application" in capfd.readouterr().out


BROKEN = [
    ("1/0", "importing broken failed: ZeroDivisionError: division by zero", "1/0"),
    ("raise ValueError('x' * 100_000)", "importing broken failed: ValueError: xxx", "Traceback"),
    ("import no_such_module", "broken needs the module 'no_such_module'", "Traceback"),
    ("app = 5", "broken:app is a int, not a callable", ""),
    ("other = 5", "the module broken has no attribute 'app'", ""),
    ("import os; os._exit(7)", "broken:app: the process ended while importing it (exit status 7)", ""),
    ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "ended while importing it (signal 9)", ""),
    ("import sys; sys.exit(3)", "importing broken failed: SystemExit: 3", ""),
]


@pytest.mark.parametrize(("source", "said", "trace"), BROKEN, ids=[source for source, _, _ in BROKEN])
def test_check_of_an_application_that_does_not_load(
    source: str, said: str, trace: str, capfd: pytest.CaptureFixture[str]
) -> None:
    Path("broken.py").write_text(f"{source}\n")
    Path("server.yaml").write_text("app: broken:app\n")
    assert cli.main(["check"]) == 4
    out, err = capfd.readouterr()
    *before, last = err.rstrip("\n").split("\n")
    assert last.startswith("serverd check: ")
    assert said in last
    assert trace in "\n".join(before)
    assert out.startswith("# broken:app was not loaded\napp: broken:app\n")


def test_check_does_not_wait_for_ever(capfd: pytest.CaptureFixture[str]) -> None:
    Path("slow.py").write_text("import threading; threading.Event().wait()\n")
    Path("server.yaml").write_text("app: slow:app\ntimeouts: {boot: 300ms}\n")
    assert cli.main(["check"]) == 4
    assert capfd.readouterr().err.endswith(
        "serverd check: slow:app: not imported within 300ms (timeouts.boot)\n"
    )


def test_check_is_not_held_up_by_what_the_application_leaves_behind(
    capfd: pytest.CaptureFixture[str],
) -> None:
    Path("spawner.py").write_text(
        "import subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-c', 'input()'], stdin=subprocess.PIPE, close_fds=False)\n"
        + APP
    )
    Path("server.yaml").write_text("app: spawner:app\n")
    assert cli.main(["check"]) == 0
    assert "# ok: spawner:app" in capfd.readouterr().out


# init


def test_init_writes_a_file_that_loads(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["init"]) == 0
    assert capsys.readouterr() == (
        "",
        (
            "wrote server.yaml; next: put your application in place of main:app, then serverd check -c server.yaml, "
            "then serverd -c server.yaml\n"
        ),
    )
    assert load("server.yaml", environ={}).app == "main:app"
    assert cli.main(["init", "--app", "mine:app", "--force"]) == 0
    assert capsys.readouterr().err == (
        "wrote server.yaml; next: serverd check -c server.yaml, then serverd -c server.yaml\n"
    )


def test_init_does_not_overwrite(capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine.yaml").write_text("precious")
    assert cli.main(["init", "mine.yaml"]) == 2
    assert Path("mine.yaml").read_text() == "precious"
    assert capsys.readouterr().err == (
        "serverd init: mine.yaml exists; name another file, or overwrite it with --force\n"
    )
    assert cli.main(["init", "mine.yaml", "--force", "--app", "notes.main:create()"]) == 0
    assert load("mine.yaml", environ={}).app == "notes.main:create()"


def test_init_in_a_folder(capsys: pytest.CaptureFixture[str]) -> None:
    Path("site").mkdir()
    assert cli.main(["init", "site"]) == 0
    assert load("site/server.yaml", environ={}).app_dir == Path.cwd() / "site"
    assert "site/server.yaml" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            ["init", "nowhere/x.yaml"],
            "serverd init: nowhere/x.yaml cannot be written: No such file or directory",
        ),
        (
            ["init", "--app", "main"],
            'serverd init: --app: expected module:attribute or module:factory(), got "main"',
        ),
    ],
)
def test_init_that_cannot(words: list[str], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words) == 2
    assert capsys.readouterr().err == f"{line}\n"
    assert not Path("server.yaml").exists()


# schema


def test_schema_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["schema"]) == 0
    assert json.loads(capsys.readouterr().out)["properties"]["app"]


def test_a_reader_that_has_enough_is_no_error() -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    command = [sys.executable, "-m", "serverd", "schema"]
    with open(write_end, "wb") as out:
        done = subprocess.run(command, stdout=out, stderr=subprocess.PIPE, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (1, b"")


# unit


def directives(text: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found.setdefault(name, []).append(value)
    return found


def unit_of(text: str, *overrides: str) -> dict[str, list[str]]:
    file = Path("server.yaml")
    file.write_text("app: main:app\n" + text)
    config = load(file, overrides=overrides, environ={})
    return directives(fill_in(TEMPLATE, config, overrides, python=Path("/opt/py/bin/python3.14t")))


def test_the_unit_runs_this_interpreter_with_this_configuration() -> None:
    here = Path.cwd()
    found = unit_of("timeouts: {boot: 90s, graceful: 2m}\n")
    assert found["ExecStart"] == [f"/opt/py/bin/python3.14t -P -m serverd -c {here}/server.yaml"]
    assert found["Description"] == [f"serverd: main:app ({here}/server.yaml)"]
    assert (found["TimeoutStartSec"], found["TimeoutStopSec"]) == (["120s"], ["135s"])
    assert found["Type"] == directives(TEMPLATE)["Type"]
    same = ("DynamicUser", "UMask", "RuntimeDirectory", "After")
    assert {name: found[name] for name in same} == {name: directives(TEMPLATE)[name] for name in same}


def test_the_unit_of_no_limits_has_none() -> None:
    found = unit_of("timeouts: {boot: 0, graceful: 0}\n")
    assert (found["TimeoutStartSec"], found["TimeoutStopSec"]) == (["infinity"], ["infinity"])


def test_the_unit_takes_over_who_it_runs_as_and_where_it_writes() -> None:
    found = unit_of(
        "listen: [unix:/run/web/app.sock, unix:/run/serverd/b.sock, unix:/srv/a b/c.sock, systemd]\n"
        "process: {user: nobody, group: '65534', umask: 007, pidfile: /run/web/pid}\n"
    )
    assert (found["User"], found["Group"], found["DynamicUser"]) == (["nobody"], ["65534"], ["no"])
    assert found["UMask"] == ["0007"]
    assert found["RuntimeDirectory"] == ["serverd", "web"]
    assert found["ReadWritePaths"] == ['"/srv/a b"']
    assert found["Requires"] == ["serverd.socket"]
    assert found["After"] == ["network.target", "serverd.socket"]


def test_the_unit_knows_where_the_admin_plane_listens() -> None:
    found = unit_of("listen: [a:1]\nadmin: {listen: unix:/run/watch/admin.sock}\n")
    assert found["RuntimeDirectory"] == ["serverd", "watch"]
    assert "serverd.socket" in unit_of("admin: {listen: systemd:admin}\n")["Requires"]
    config = load(None, app="main:app", overrides=["admin.listen=a:91", "process.user=nobody"], environ={})
    assert [line.partition(" needs")[0] for line in notes(config)] == ["port 91"]


def test_the_unit_keeps_what_the_command_line_said_and_quotes_it() -> None:
    here = Path.cwd()
    found = unit_of("", "app_dir=.", 'process.title=100% $HOME "x" \\', "workers.threads=4")
    assert found["ExecStart"][0].partition("server.yaml ")[2] == (
        f"--set app_dir={here} "
        r'--set "process.title=100%% $$HOME \"x\" \\" '
        "--set workers.threads=4"
    )  # fmt: skip


def test_overrides_mean_the_same_from_another_folder() -> None:
    texts = ["app_dir=code", 'listen=["unix:x", "a:1"]', "env.A=code", "reload.dirs=[a]"]
    assert absolute(texts, Path("/srv")) == [
        "app_dir=/srv/code",
        'listen=["unix:/srv/x", "a:1"]',
        "env.A=code",
        'reload.dirs=["/srv/a"]',
    ]


def test_the_unit_of_an_application_at_home_may_read_homes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serverd.supervisor.unit._HOMES", (Path.cwd(),))
    assert unit_of("")["ProtectHome"] == ["read-only"]
    monkeypatch.setattr("serverd.supervisor.unit._HOMES", (Path("/nowhere"),))
    assert unit_of("")["ProtectHome"] == directives(TEMPLATE)["ProtectHome"]


def test_what_the_unit_alone_does_not_settle(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("closed").mkdir(mode=0o700)
    monkeypatch.setattr("serverd.supervisor.unit._read_paths", lambda config: [config.app_dir])
    config = load(
        None, app="main:app", overrides=["app_dir=closed", 'listen=["a:80", "systemd:web"]'], environ={}
    )
    said = list(notes(config))
    assert said[0] == "port 80 needs a privilege; let systemd open it: listen: [systemd], with serverd.socket"
    assert said[1] == "listen: systemd:web needs serverd.socket installed beside this unit"
    assert said[2].endswith(
        "is closed to other users, and the service has a user of its own; set process.user"
    )
    config = load(None, app="main:app", overrides=["app_dir=closed", "process.user=nobody"], environ={})
    assert list(notes(config)) == []


def test_directives_are_replaced_in_place_or_added_to_their_section() -> None:
    unit_file = UnitFile("# old\n\n[Unit]\nA=1\n# about B\nB=2\n\n[Service]\nA=3\n\n")
    unit_file.header = ["# new"]
    unit_file.put("Service", "A", "4")
    unit_file.put("Unit", "B", "5")
    unit_file.put("Unit", "C", "6")
    unit_file.add("Service", "A", "7")
    assert unit_file.text() == "# new\n\n[Unit]\nA=1\n# about B\nB=5\nC=6\n\n[Service]\nA=4\nA=7\n\n"


@pytest.mark.systemd
def test_systemd_finds_no_fault_in_the_unit(tmp_path: Path) -> None:
    folder = tmp_path / "with space"
    folder.mkdir()
    (folder / "server.yaml").write_text(
        "app: main:app\nprocess: {user: daemon}\nlisten: unix:/run/web/x.sock\n"
    )
    done = serverd_command("unit", "-c", str(folder / "server.yaml"), "--set", "process.title=100% $HOME")
    assert done.returncode == 0
    unit_path = tmp_path / "serverd.service"
    unit_path.write_text(done.stdout)
    analyze = shutil.which("systemd-analyze")
    assert analyze is not None
    checked = subprocess.run(
        [analyze, "verify", str(unit_path)], capture_output=True, text=True, timeout=60, check=False
    )
    ours = [line for line in checked.stderr.splitlines() if "serverd" in line and "notify-reload" not in line]
    assert ours == []


def test_commands_are_quick_to_reach() -> None:
    code = "import sys, serverd.supervisor.cli, serverd.supervisor.commands; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    loaded = set(done.stdout.split())
    assert loaded.isdisjoint({"serverd.supervisor.master", "yaml", "cattrs", "asyncio", "watchfiles", "h11"})
    assert commands.__name__ in loaded
