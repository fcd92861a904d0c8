"""The notes and the files in one SQLite database, used from many threads at once without a GIL.

Who may touch what, and why that is safe:

- A `Database` may be shared by every thread of a process, and its methods called by any of them at any time.
- A SQLite connection is used by one thread at a time. Connections lie in a pool; a method takes one out,
  works, and puts it back, and only the pool's list is shared, under a lock that is held for one append or
  pop. There are never more connections than calls that ran at the same time, which is at most the number of
  worker threads.
- Readers see a snapshot and wait for nobody (WAL). SQLite has one writer at a time: threads of this process
  queue on a lock, which wakes the next at once; other processes are met with `busy_timeout`, where SQLite
  sleeps and retries.

Refused: an id that SQLite could not store (see `MAX_ID`), and use after `close()`
(`sqlite3.ProgrammingError`).
"""

import hashlib
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, Literal

MAX_ID = 2**63 - 1  # SQLite's integers are signed and 64 bits wide
PART_SIZE = 256 * 1024  # a file is kept in parts: neither upload nor download holds more than one in memory
BUSY_SECONDS = 10.0  # how long a write waits for another process's

SCHEMA = """
CREATE TABLE IF NOT EXISTS notes (
    id INTEGER PRIMARY KEY AUTOINCREMENT, title TEXT NOT NULL, text TEXT NOT NULL,
    created TEXT NOT NULL, updated TEXT NOT NULL, revision INTEGER NOT NULL DEFAULT 1
) STRICT;
CREATE TABLE IF NOT EXISTS files (
    id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL, type TEXT NOT NULL,
    size INTEGER NOT NULL, sha256 TEXT NOT NULL, created TEXT NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS parts (
    file INTEGER NOT NULL REFERENCES files(id) ON DELETE CASCADE, number INTEGER NOT NULL, data BLOB NOT NULL,
    PRIMARY KEY (file, number)
) STRICT, WITHOUT ROWID;
"""

# The two dataclasses below have the columns' order: `Note(*row)`, from SELECT * or RETURNING *.
FOUND = "FROM notes WHERE title LIKE ?1 ESCAPE '\\' OR text LIKE ?1 ESCAPE '\\'"
COUNT_FOUND = "SELECT count(*) " + FOUND
LIST_FOUND = "SELECT * " + FOUND + " ORDER BY updated DESC, id DESC LIMIT ?2 OFFSET ?3"


@dataclass(frozen=True, slots=True)
class Note:
    """One note. Times are UTC, ISO 8601 to the second; `revision` starts at 1 and counts the updates."""

    id: int
    title: str
    text: str
    created: str
    updated: str
    revision: int


@dataclass(frozen=True, slots=True)
class StoredFile:
    """What is known of an uploaded file without its content; `size` in bytes, `sha256` in hex."""

    id: int
    name: str
    type: str
    size: int
    sha256: str
    created: str


class DatabaseUnusable(Exception):
    """The database cannot be opened; the text names the file and what to do."""


class RevisionConflict(Exception):
    """Somebody else changed the note after the caller read it; `current` is what it is now."""

    def __init__(self, current: Note) -> None:
        super().__init__(f"note {current.id} is at revision {current.revision}")
        self.current = current


class Database:
    """Every query of the application. Each method is one transaction and may be called by any thread."""

    def __init__(self, path: Path) -> None:
        """Open or create the database; `DatabaseUnusable` when its file or folder does not allow it."""
        self.path = path
        self._idle: list[sqlite3.Connection] = []
        self._closed = False
        self._pool_lock = threading.Lock()  # guards the two above, never held while a query runs
        self._write_lock = threading.Lock()  # the one writer of this process
        try:
            with self._transaction("IMMEDIATE") as connection:
                for statement in SCHEMA.split(";"):
                    connection.execute(statement)
        except (sqlite3.Error, OSError) as error:
            raise DatabaseUnusable(
                f"cannot use the database {path}: {error};"
                " set DATABASE to a file in a folder that this user can write to"
            ) from error

    def close(self) -> None:
        """Close every connection; one in use is closed at the end of the call. May be called twice."""
        with self._pool_lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    # -- notes

    def list_notes(self, query: str = "", limit: int = 50, offset: int = 0) -> tuple[list[Note], int]:
        """The notes with `query` in title or text, the last changed first, and how many there are in all."""
        pattern = "%" + query.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_") + "%"
        with self._transaction("DEFERRED") as connection:
            (total,) = connection.execute(COUNT_FOUND, (pattern,)).fetchone()
            rows = connection.execute(LIST_FOUND, (pattern, limit, offset)).fetchall()
        return [Note(*row) for row in rows], total

    def notes_after(self, note_id: int, limit: int = 50) -> tuple[list[Note], int]:
        """The notes with a higher id, the lowest first, and how many notes there are.

        Ids rise with each commit, as there is one writer at a time: who has seen an id has missed none below it.
        """
        with self._transaction("DEFERRED") as connection:
            (total,) = connection.execute("SELECT count(*) FROM notes").fetchone()
            rows = connection.execute(
                "SELECT * FROM notes WHERE id > ? ORDER BY id LIMIT ?", (note_id, limit)
            ).fetchall()
        return [Note(*row) for row in rows], total

    def last_id(self) -> int:
        """The highest id of a note; 0 when there is none."""
        with self._transaction("DEFERRED") as connection:
            return int(connection.execute("SELECT coalesce(max(id), 0) FROM notes").fetchone()[0])

    def get_note(self, note_id: int) -> Note | None:
        """The note, or None when there is none."""
        with self._transaction("DEFERRED") as connection:
            return _note(connection, note_id)

    def create_note(self, title: str, text: str) -> Note:
        """Store a new note and return it with its id."""
        now = _now()
        with self._transaction("IMMEDIATE") as connection:
            row = connection.execute(
                "INSERT INTO notes (title, text, created, updated) VALUES (?, ?, ?, ?) RETURNING *",
                (title, text, now, now),
            ).fetchone()
        return Note(*row)

    def update_note(self, note_id: int, title: str, text: str, revision: int | None = None) -> Note | None:
        """Replace a note's content; None when there is no such note.

        With `revision` (the one the caller saw) a note that has moved on is left alone, and
        `RevisionConflict` raised.
        """
        with self._transaction("IMMEDIATE") as connection:
            current = _note(connection, note_id)
            if current is None:
                return None
            if revision is not None and revision != current.revision:
                raise RevisionConflict(current)
            row = connection.execute(
                "UPDATE notes SET title = ?, text = ?, updated = ?, revision = revision + 1"
                " WHERE id = ? RETURNING *",
                (title, text, _now(), note_id),
            ).fetchone()
        return Note(*row)

    def delete_note(self, note_id: int) -> bool:
        """Delete the note; False when there was none."""
        with self._transaction("IMMEDIATE") as connection:
            return connection.execute("DELETE FROM notes WHERE id = ?", (note_id,)).rowcount == 1

    # -- files

    def list_files(self) -> list[StoredFile]:
        """All files, newest first."""
        with self._transaction("DEFERRED") as connection:
            rows = connection.execute("SELECT * FROM files ORDER BY id DESC").fetchall()
        return [StoredFile(*row) for row in rows]

    def get_file(self, file_id: int) -> StoredFile | None:
        """What is known of the file, or None when there is none."""
        with self._transaction("DEFERRED") as connection:
            return _file(connection, file_id)

    def add_file(self, name: str, content_type: str, content: BinaryIO) -> StoredFile:
        """Store what `content` gives until its end, in parts; readers see the file whole or not at all."""
        digest = hashlib.sha256()
        size = 0
        with self._transaction("IMMEDIATE") as connection:
            file_id = connection.execute(
                "INSERT INTO files (name, type, size, sha256, created) VALUES (?, ?, 0, '', ?)",
                (name, content_type, _now()),
            ).lastrowid
            number = 0
            while part := content.read(PART_SIZE):
                connection.execute(
                    "INSERT INTO parts (file, number, data) VALUES (?, ?, ?)", (file_id, number, part)
                )
                digest.update(part)
                size += len(part)
                number += 1
            row = connection.execute(
                "UPDATE files SET size = ?, sha256 = ? WHERE id = ? RETURNING *",
                (size, digest.hexdigest(), file_id),
            ).fetchone()
        return StoredFile(*row)

    def file_parts(self, file_id: int) -> Iterator[bytes]:
        """The content in order, one query for each part: no transaction is open while a slow client reads.

        A file deleted meanwhile ends the iteration early; the caller compares with `size`.
        """
        number = 0
        while True:
            with self._transaction("DEFERRED") as connection:
                row = connection.execute(
                    "SELECT data FROM parts WHERE file = ? AND number = ?", (file_id, number)
                ).fetchone()
            if row is None:
                return
            yield row[0]
            number += 1

    def delete_file(self, file_id: int) -> bool:
        """Delete the file and its parts; False when there was none."""
        with self._transaction("IMMEDIATE") as connection:
            return connection.execute("DELETE FROM files WHERE id = ?", (file_id,)).rowcount == 1

    # -- connections

    @contextmanager
    def _transaction(self, kind: Literal["DEFERRED", "IMMEDIATE"]) -> Iterator[sqlite3.Connection]:
        """A connection for this thread alone, in a transaction: committed at the end or rolled back.

        IMMEDIATE takes the write lock at the start: a transaction that reads first and writes later could
        otherwise fail at its first write, when another one wrote in between (SQLITE_BUSY_SNAPSHOT), whatever
        the timeout.
        """
        if kind == "IMMEDIATE":
            with self._write_lock, self._borrowed() as connection, _committed(connection, kind):
                yield connection
        else:
            with self._borrowed() as connection, _committed(connection, kind):
                yield connection

    @contextmanager
    def _borrowed(self) -> Iterator[sqlite3.Connection]:
        with self._pool_lock:
            if self._closed:
                raise sqlite3.ProgrammingError("the database is closed")
            connection = self._idle.pop() if self._idle else None  # the last one in: its page cache is warm
        if connection is None:
            connection = _connect(self.path)
        try:
            yield connection
        finally:
            with self._pool_lock:
                keep = not self._closed
                if keep:
                    self._idle.append(connection)
            if not keep:
                connection.close()


def _connect(path: Path) -> sqlite3.Connection:
    # check_same_thread is off because the pool hands a connection from thread to thread, to one at a time.
    connection = sqlite3.connect(path, timeout=BUSY_SECONDS, autocommit=True, check_same_thread=False)
    try:
        _switch_to_wal(connection)
        connection.execute("PRAGMA synchronous = NORMAL")  # with WAL: safe against a crash of the process
        connection.execute("PRAGMA foreign_keys = ON")
    except BaseException:
        connection.close()
        raise
    return connection


def _switch_to_wal(connection: sqlite3.Connection) -> None:
    """Readers beside a writer. It is a property of the file: only the very first connection changes anything.

    That first time several processes may race for it, and SQLite then fails at once, whatever `timeout` says
    (seen in 13 of 60 tries with six processes; never with the loop below).
    """
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL").fetchone()
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


@contextmanager
def _committed(connection: sqlite3.Connection, kind: str) -> Iterator[None]:
    connection.execute(f"BEGIN {kind}")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # after some errors, such as a full disk, SQLite has rolled back itself
            connection.execute("ROLLBACK")
        raise


def _note(connection: sqlite3.Connection, note_id: int) -> Note | None:
    row = connection.execute("SELECT * FROM notes WHERE id = ?", (note_id,)).fetchone()
    return None if row is None else Note(*row)


def _file(connection: sqlite3.Connection, file_id: int) -> StoredFile | None:
    row = connection.execute("SELECT * FROM files WHERE id = ?", (file_id,)).fetchone()
    return None if row is None else StoredFile(*row)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
