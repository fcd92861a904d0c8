"""What each signal does to a running daemon, sent to the master by number or typed on a terminal."""

import fcntl
import os
import signal
import struct
import termios
from pathlib import Path

import pytest

from tests.support.client import RawClient
from tests.support.daemon import Daemon, alive, title, wait_until
from tests.support.probe import source

from .test_master_lifecycle import InFlight, get


def test_ttin_and_ttou_make_one_child_more_or_less_but_never_none(tmp_path: Path) -> None:
    with Daemon(tmp_path, app=source()) as daemon:
        daemon.wait_ready()
        (first,) = daemon.workers()
        daemon.signal(signal.SIGTTIN)
        daemon.wait_for_line("SIGTTIN: 2 children wanted")
        daemon.wait_for_line(r"worker 1 g1 \(pid \d+\) is ready")
        assert len(daemon.workers()) == 2
        daemon.signal(signal.SIGTTOU)
        daemon.wait_for_line("SIGTTOU: 1 child wanted")
        wait_until(lambda: daemon.workers() == [first], "the newer child is gone")
        mark = daemon.mark()
        daemon.signal(signal.SIGTTOU)
        daemon.wait_for_line("SIGTTOU: 1 child wanted", after=mark)
        assert daemon.workers() == [first]
        assert get(daemon).status == 200


def test_winch_sends_the_children_home_and_hup_brings_them_back(tmp_path: Path) -> None:
    with Daemon(tmp_path, app=source(), config={"workers": {"processes": 2}}) as daemon:
        daemon.wait_ready()
        daemon.signal(signal.SIGWINCH)
        daemon.wait_for_line("SIGWINCH: all children drain")
        wait_until(lambda: not daemon.children(), "no child is left")
        with RawClient(("127.0.0.1", daemon.port)) as waiting:  # the socket is open: it waits in the backlog
            waiting.send(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
            daemon.signal(signal.SIGHUP)
            daemon.wait_for_line("generation 2 ready in .*: 2 processes")
            assert waiting.response().status == 200


def test_ttin_brings_back_one_child_after_winch(tmp_path: Path) -> None:
    with Daemon(tmp_path, app=source()) as daemon:
        daemon.wait_ready()
        daemon.signal(signal.SIGWINCH)
        wait_until(lambda: not daemon.children(), "no child is left")
        daemon.signal(signal.SIGTTIN)
        daemon.wait_for_line("SIGTTIN: 1 child wanted")
        assert get(daemon).status == 200


def test_usr1_says_what_it_does_not_do(tmp_path: Path) -> None:
    with Daemon(tmp_path, app=source()) as daemon:
        daemon.wait_ready()
        daemon.signal(signal.SIGUSR1)
        daemon.wait_for_line("SIGUSR1: the log goes to standard error")
        assert get(daemon).status == 200


def test_a_burst_of_signals_is_taken_in_order(tmp_path: Path) -> None:
    with Daemon(tmp_path, app=source()) as daemon:
        daemon.wait_ready()
        for number in (
            signal.SIGTTIN,
            signal.SIGHUP,
            signal.SIGTTIN,
            signal.SIGHUP,
            signal.SIGTTOU,
            signal.SIGTERM,
        ):
            daemon.signal(number)
        assert daemon.wait_exit() == 0
        assert daemon.children() == []


def test_a_signal_to_the_whole_group_at_the_boot_is_a_stop_and_no_failure(tmp_path: Path) -> None:
    """systemd's KillMode=control-group and `kill -TERM -PGID` send SIGTERM to the children too."""
    top = "import time\nwhile not (__import__('pathlib').Path(__file__).parent / 'go').exists(): time.sleep(0.01)"
    with Daemon(tmp_path, app=source(top=top), config={"workers": {"processes": 2}}) as daemon:
        daemon.wait_for_line("listening on")
        wait_until(lambda: len(daemon.workers()) == 2, "both children boot")
        os.killpg(daemon.pid, signal.SIGTERM)
        assert daemon.wait_exit() == 0
        assert not [line for line in daemon.lines if "cannot boot" in line or "Traceback" in line]


def test_a_term_to_a_child_drains_that_child_and_it_is_replaced(tmp_path: Path) -> None:
    with Daemon(tmp_path, app=source(), config={"workers": {"processes": 2}}) as daemon:
        daemon.wait_ready()
        one, other = daemon.workers()
        os.kill(one, signal.SIGTERM)
        daemon.wait_for_line(rf"worker . g1 \(pid {one}\) was told to leave by somebody else")
        daemon.wait_for_line(r" info .* worker . g1 \(pid \d+\) is ready, in")
        wait_until(lambda: len(daemon.workers()) == 2 and other in daemon.workers(), "it is replaced")
        assert daemon.count(" error ") == 0


# On a terminal


def test_the_first_ctrl_c_is_graceful_and_the_second_is_not(tmp_path: Path) -> None:
    with Daemon(tmp_path, app=source(), terminal=True) as daemon:
        daemon.wait_ready()
        waiting = InFlight(daemon)
        workers = daemon.workers()
        daemon.press("\x03")
        daemon.wait_for_line("stopping, requests in flight have 10 s")
        daemon.wait_for_line("press Ctrl-C again to stop at once")
        assert all(map(alive, workers)), "the children leave it to the master"
        daemon.press("\x03")
        daemon.wait_for_line("stopping at once")
        daemon.wait_for_line("cut off by a stop at once: GET /")
        assert daemon.wait_exit(5.0) == 0
        assert waiting.result() is None


def test_one_ctrl_c_lets_requests_finish(tmp_path: Path) -> None:
    with Daemon(tmp_path, app=source(), terminal=True, config={"reload": {"enabled": True}}) as daemon:
        daemon.wait_ready()
        daemon.wait_for_line("watching")
        waiting = InFlight(daemon)
        daemon.press("\x03")
        daemon.wait_for_line("press Ctrl-C again")
        waiting.release()
        answer = waiting.result()
        assert answer is not None
        assert answer.status == 200
        assert daemon.wait_exit() == 0
        assert "Traceback" not in daemon.log


def test_ctrl_backslash_is_fast_at_once(tmp_path: Path) -> None:
    with Daemon(tmp_path, app=source(), terminal=True) as daemon:
        daemon.wait_ready()
        waiting = InFlight(daemon)
        daemon.press("\x1c")
        assert daemon.wait_exit(5.0) == 0
        assert waiting.result() is None


def test_another_size_of_the_window_means_nothing(tmp_path: Path) -> None:
    with Daemon(tmp_path, app=source(), terminal=True) as daemon:
        daemon.wait_ready()
        (worker,) = daemon.workers()
        fcntl.ioctl(daemon.keyboard, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 132, 0, 0))
        daemon.signal(signal.SIGWINCH)
        daemon.signal(signal.SIGUSR1)
        daemon.wait_for_line("SIGUSR1")
        assert daemon.workers() == [worker]
        assert get(daemon).status == 200


def test_the_end_of_the_terminal_is_the_end_of_the_server(tmp_path: Path) -> None:
    with Daemon(tmp_path, app=source(), terminal=True) as daemon:
        daemon.wait_ready()
        workers = daemon.workers()
        daemon.hang_up()
        assert daemon.wait_exit() == 0
        assert not any(map(alive, workers))


@pytest.mark.parametrize("terminal", [True, False])
def test_hup_by_hand_reloads_on_a_terminal_too(tmp_path: Path, terminal: bool) -> None:
    with Daemon(tmp_path, app=source(), terminal=terminal) as daemon:
        daemon.wait_ready()
        daemon.signal(signal.SIGHUP)
        daemon.wait_for_line("reload: SIGHUP")
        daemon.wait_for_line("generation 2 ready")
        wait_until(
            lambda: [title(pid) for pid in daemon.workers()] == ["serverd: worker 0 g2"], "only the new one"
        )
