"""A real browser before the example application: pages that are open while notes are written, people talk, files of the
application are saved, and the server goes away and comes back.
"""

from __future__ import annotations

import hashlib
import random
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.browser import Browser, Page
from tests.support.daemon import Daemon, alive, free_port, wait_until
from tests.support.self_signed import self_signed

NOTES = Path(__file__).resolve().parents[2] / "examples" / "notes"
CONNECTED = "document.querySelector('#live').textContent === 'Connected'"
RECONNECTING = "document.querySelector('#live').textContent === 'Reconnecting…'"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("browser")) as browser:
        yield browser


class Site:
    """A copy of the example, which a test may edit, and the daemon that serves it as the example's own file says."""

    def __init__(self, folder: Path, *options: str, certificate: Path | None = None) -> None:
        shutil.copytree(
            NOTES, folder / "site", ignore=shutil.ignore_patterns("__pycache__", "notes.db*", "*.control")
        )
        self.package = folder / "site" / "notes"
        self.port = free_port()
        config = ["-c", str(folder / "site" / "server.yaml"), "--set", f'listen=["127.0.0.1:{self.port}"]']
        scheme = "http"
        if certificate is not None:
            scheme = "https"
            config += ["--set", f"tls.cert={certificate}", "--set", f"tls.key={certificate}"]
        self.daemon = Daemon(folder, argv=[sys.executable, "-m", "serverd", *config, *options])
        self.url = f"{scheme}://127.0.0.1:{self.port}/"

    def __enter__(self) -> Site:
        try:
            self.daemon.wait_ready()
        except AssertionError:
            self.daemon.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.daemon.close()

    def write(self, title: str) -> None:
        """A new note, from a client that is no browser."""
        url, note = f"{self.url}api/notes", {"title": title}
        assert httpx.post(url, json=note, timeout=20, verify=False).status_code == 201

    def edit(self, name: str, changes: dict[str, str]) -> None:
        """Save a file of the application with other text in some places, in one step."""
        path = self.package / name
        text = path.read_text()
        for old, new in changes.items():
            assert text.count(old) == 1, f"{old!r} is {text.count(old)} times in {name}"
            text = text.replace(old, new)
        temporary = path.with_suffix(".saved")
        temporary.write_text(text)
        temporary.replace(path)


def connected(browser: Browser, site: Site) -> Page:
    page = browser.open(site.url)
    page.wait_for(CONNECTED)
    return page


def say(page: Page, text: str) -> None:
    page.type("#say [name=text]", text, enter=True)


def hear(page: Page, text: str) -> None:
    page.wait_for(f"document.querySelector('#said li:last-child')?.lastChild.data === {text!r}")


def see(page: Page, title: str) -> None:
    page.wait_for(f"document.querySelector('#notes li:first-child h2')?.textContent === {title!r}")


def test_two_pages_talk_and_both_see_a_note_that_one_of_them_writes(browser: Browser, tmp_path: Path) -> None:
    with Site(tmp_path) as site:
        ada, bob, carol = (connected(browser, site) for _ in range(3))
        ada.type("#say [name=name]", "Ada")
        say(ada, "Hello, <b>everyone</b>")
        bob.type("#say [name=name]", "Bob")
        for page in (ada, bob, carol):
            hear(page, "Hello, <b>everyone</b>")
            assert page.text("#said li:last-child b") == "Ada"
        bob.type("#say [name=text]", "Hello, Ada")
        bob.click("#say button")
        for page in (ada, carol):
            hear(page, "Hello, Ada")
            assert page.text("#said li:last-child b") == "Bob"

        loads = carol.loads
        carol.type("main input[name=title]", "Shopping & <more>")
        carol.type("main textarea", "milk")
        carol.click("form[action=notes] button")
        carol.wait_for_load(loads)
        assert carol.text("article h1") == "Shopping & <more>"
        for page in (ada, bob):
            see(page, "Shopping & <more>")
            assert page.text("#count") == "1 note"
        ada.screenshot(tmp_path / "notes.png")

        loads = ada.loads
        ada.click("#notes li:first-child a")
        ada.wait_for_load(loads)
        assert ada.text("article .text") == "milk"
        assert [page.complaints for page in (ada, bob, carol)] == [[], [], []]


@pytest.mark.parametrize("how", ["save", "HUP", "HUP over TLS"])
def test_open_pages_go_on_with_new_code(browser: Browser, tmp_path: Path, how: str) -> None:
    """With --reload idle connections are closed at once; else the old child waits for their end, here not for long."""
    options = ["--reload"] if how == "save" else ["--set", "timeouts.keep_alive=1s"]
    certificate = self_signed(tmp_path / "localhost.pem") if "TLS" in how else None
    with Site(tmp_path, *options, certificate=certificate) as site:
        if how == "save":
            site.daemon.wait_for_line("watching")
        (old,) = site.daemon.workers()
        pages = [connected(browser, site), connected(browser, site)]
        site.write("from the old code")
        for page in pages:
            see(page, "from the old code")
        pages[0].type("#say [name=text]", "typed before, sent after")

        changes = {
            "pages.card(note)": 'pages.card(note).replace("<h2>", "<h2>new: ")',
            "line[:MAX_LINE]": "line[:MAX_LINE].upper()",
        }
        site.edit("live.py", changes)
        if how != "save":
            site.daemon.signal(signal.SIGHUP)
        wait_until(lambda: not alive(old), "the old child has left")
        site.write("from the new code")
        for page in pages:
            see(page, "new: from the new code")
            page.wait_for(CONNECTED)
        assert (
            pages[0].evaluate("document.querySelector('#say [name=text]').value")
            == "typed before, sent after"
        )
        pages[0].click("#say button")
        for page in pages:
            hear(page, "TYPED BEFORE, SENT AFTER")
        assert [page.complaints for page in pages] == [[], []]
        assert [page.loads for page in pages] == [1, 1]
        assert site.daemon.count("cut off") == 0


def test_a_page_that_was_open_while_the_server_was_away_catches_up(browser: Browser, tmp_path: Path) -> None:
    with Site(tmp_path) as site:
        page = connected(browser, site)
        site.write("before")
        see(page, "before")
        site.daemon.signal(signal.SIGTERM)
        page.wait_for(RECONNECTING)
        assert site.daemon.wait_exit() == 0
        assert page.evaluate("document.querySelector('#say button').disabled")

        mark = site.daemon.mark()
        site.daemon.start()
        site.daemon.wait_for_line(r"generation \d+ ready", after=mark)
        site.write("while it was away")  # perhaps before the page is back, perhaps after
        page.wait_for(CONNECTED)
        see(page, "while it was away")
        say(page, "still here")
        hear(page, "still here")
        assert page.text("#count") == "2 notes"
        # The console names every try to reach a server that is not there, and nothing else.
        assert [text for text in page.complaints if "ERR_CONNECTION" not in text] == []


def test_another_site_can_neither_join_the_chat_nor_read_the_notes(browser: Browser, tmp_path: Path) -> None:
    with Site(tmp_path) as site, Daemon(tmp_path) as elsewhere:
        ours, theirs = connected(browser, site), browser.open(f"http://127.0.0.1:{elsewhere.port}/")
        outcome = f"""new Promise((resolve) => {{
            const socket = new WebSocket("ws://127.0.0.1:{site.port}/ws/chat");
            socket.onopen = () => resolve("joined");
            socket.onclose = (event) => resolve(`refused ${{event.code}}`);
        }})"""
        assert theirs.evaluate(outcome) == "refused 1006"
        events = f"""new Promise((resolve) => {{
            const events = new EventSource("{site.url}events");
            events.onopen = () => resolve("joined");
            events.onerror = () => resolve("refused");
        }})"""
        assert theirs.evaluate(events) == "refused"
        say(ours, "among ourselves")
        hear(ours, "among ourselves")
        assert ours.complaints == []


def test_a_file_is_uploaded_and_fetched_again(browser: Browser, tmp_path: Path) -> None:
    content = random.Random(5).randbytes(2_000_003)
    (tmp_path / "größe.bin").write_bytes(content)
    with Site(tmp_path) as site:
        page = browser.open(f"{site.url}files")
        loads = page.loads
        page.attach("input[type=file]", tmp_path / "größe.bin")
        page.click("main form button")
        page.wait_for_load(loads)
        assert page.text("tbody td:first-child") == "größe.bin"
        digest = page.evaluate("""(async () => {
            const answer = await fetch(document.querySelector("tbody a").href);
            const data = await answer.arrayBuffer();
            const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", data));
            return [...digest].map((byte) => byte.toString(16).padStart(2, "0")).join("");
        })()""")
        assert digest == hashlib.sha256(content).hexdigest()
        assert page.complaints == []


def test_the_clock_ticks(browser: Browser, tmp_path: Path) -> None:
    with Site(tmp_path) as site:
        page = browser.open(f"{site.url}clock")
        page.wait_for("document.querySelector('#count').textContent.startsWith('tick 2')")
        assert page.complaints == []
