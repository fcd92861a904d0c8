"""Signals as bytes, in a process of their own: handlers belong to a whole process, and this one is pytest's."""

import subprocess
import sys
import textwrap


def run(code: str) -> str:
    """What the program prints; it fails the test when it does not exit with 0."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=20, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_watched_signal_arrives_in_order_and_once() -> None:
    out = run("""
        import os, select
        from serverd.supervisor.signals import WATCHED, Signals
        signals = Signals()
        signals.install()
        assert signals.read() == []
        for number in WATCHED:
            os.kill(os.getpid(), number)
        assert select.select([signals.reader], [], [], 5)[0]
        assert tuple(signals.read()) == WATCHED, "as they were sent"
        assert signals.read() == []
        print("done")
    """)
    assert out == "done\n"


def test_a_flood_of_signals_neither_blocks_nor_fails() -> None:
    out = run("""
        import os, signal
        from serverd.supervisor.signals import Signals
        signals = Signals()
        signals.install()
        for _ in range(20000):
            os.kill(os.getpid(), signal.SIGUSR1)
        found = 0
        while chunk := signals.read():
            assert set(chunk) == {signal.SIGUSR1}
            found += len(chunk)
        assert found > 100
        print("done")
    """)
    assert out == "done\n"


def test_a_signal_for_a_child_that_was_just_forked_never_reaches_the_masters_socket() -> None:
    out = run("""
        import os, signal
        from serverd.supervisor import signals
        watched = signals.Signals()
        watched.install()
        with signals.held_back():
            pid = os.fork()
            if pid == 0:
                os.kill(os.getpid(), signal.SIGTERM)     # waits, as all signals are held back
                signals.restore()
                signals.let_through()                    # and now does what the kernel does by default
                os._exit(0)
        _, status = os.waitpid(pid, 0)
        assert os.waitstatus_to_exitcode(status) == -signal.SIGTERM, status
        assert [number.name for number in watched.read() if number is not signal.SIGCHLD] == []
        print("done")
    """)
    assert out == "done\n"


def test_the_mask_is_as_before_after_a_fork() -> None:
    out = run("""
        import signal
        from serverd.supervisor import signals
        before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
        with signals.held_back():
            assert signal.SIGTERM in signal.pthread_sigmask(signal.SIG_BLOCK, [])
        assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == {*before, signal.SIGUSR1}
        print("done")
    """)
    assert out == "done\n"


def test_a_restored_process_ignores_ctrl_c_and_nothing_else() -> None:
    out = run("""
        import signal
        from serverd.supervisor import signals
        signals.Signals().install()
        signals.restore()
        ignored = [number.name for number in signals.WATCHED if signal.getsignal(number) is signal.SIG_IGN]
        assert ignored == ["SIGINT"], ignored
        assert signal.set_wakeup_fd(-1) == -1
        print("done")
    """)
    assert out == "done\n"
