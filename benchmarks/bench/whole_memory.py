"""The memory of a process tree as if nothing else ran: pages that only strangers share with it count in full.

PSS divides each shared page by all processes that map it, and so makes a server look smaller that runs on the
interpreter of this very program, or of anything else on the machine. Here a page that processes of the tree share
counts once, and what others do counts not at all. Reads /proc; any thread may call it.
"""

from collections.abc import Iterator
from pathlib import Path

from . import machine

KIB = 1024


def whole_bytes(pid: int) -> int:
    """Anonymous memory (the tree's share of what a fork shares), and of each mapping of a file what is in memory of it.

    Of a mapping that several processes have the largest counts: they touch much the same pages of a library.
    """
    anonymous = 0
    files: dict[tuple[str, ...], int] = {}
    for member in machine.tree(pid):
        try:
            rollup = Path(f"/proc/{member}/smaps_rollup").read_text()
            maps = Path(f"/proc/{member}/smaps").read_text()
        except OSError:  # it has just ended
            continue
        anonymous += sum(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss_Anon:"))
        for mapping, size in _of_files(maps):
            files[mapping] = max(size, files.get(mapping, 0))
    return (anonymous + sum(files.values())) * KIB


def _of_files(text: str) -> Iterator[tuple[tuple[str, ...], int]]:
    """Each mapping of a file by its permissions, offset, device and inode; KiB in memory that are the file's own."""
    mapping: tuple[str, ...] | None = None
    resident = 0
    for line in text.splitlines():
        words = line.split()
        if not words[0].endswith(":"):  # the first line of a mapping, proc(5)
            mapping = tuple(words[1:5]) if words[4] != "0" else None
        elif words[0] == "Rss:":
            resident = int(words[1])
        elif (
            words[0] == "Anonymous:" and mapping
        ):  # behind Rss: pages of the file that were written, and copied
            yield mapping, resident - int(words[1])
