"""The pages as HTML: pure functions from what is shown to a whole document. Any thread may call them.

Every value is escaped by `html` (markup.py). Links are relative to `<base>`, so that the pages also work
below a `root_path`. Nothing is loaded from elsewhere and no script or style stands in the page: the
Content-Security-Policy of site.py allows neither.
"""

from .database import Note, StoredFile
from .markup import Markup, html
from .web import Served

SHOWN = 280  # characters of a note's text in the list


def document(root: str, title: str, here: str, body: Markup, foot: Served) -> Markup:
    """One page: head, the three tabs (`here` is the current one), `body`, and who made it."""
    tabs = [_tab(name, href, here) for name, href in (("Notes", "."), ("Files", "files"), ("Clock", "clock"))]
    gil = "with the GIL" if foot["gil"] else "free-threaded"
    return html(t"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title} · Notes</title>
<base href="{root}/">
<link rel="stylesheet" href="static/style.css">
<link rel="icon" href="static/icon.svg" type="image/svg+xml">
</head>
<body>
<header><a class="brand" href=".">Notes</a><nav>{tabs}</nav></header>
<main>
{body}
</main>
<footer>Served by process {foot["pid"]}, thread {foot["thread"]}, Python {foot["python"]} ({gil})</footer>
</body>
</html>
""")


def _tab(name: str, href: str, here: str) -> Markup:
    if name == here:
        return html(t'<a href="{href}" aria-current="page">{name}</a>')
    return html(t'<a href="{href}">{name}</a>')


def notes(found: list[Note], total: int, query: str, last: int) -> Markup:
    """The form for a new note, the search, the list, and the chat. static/live.js adds what comes after note `last`."""
    if query:
        shown = f"{total} found" if total else "Nothing found"
    else:
        shown = count(total)
    more = f", the newest {len(found)} shown" if total > len(found) else ""
    events = "" if query else f"events?after={last}"  # a search shows what was there when it was made
    return html(t"""<div class="board">
<div>
{note_form("notes", "New note", "Add note", "", "", {}, compact=True)}
<section>
<form class="search" action="." method="get" role="search">
<input type="search" name="query" value="{query}" placeholder="Search notes" aria-label="Search notes">
<button class="quiet">Search</button>
</form>
<p class="count" id="count">{shown}{more}</p>
<ul class="cards" id="notes" aria-live="polite" data-events="{events}">{[card(note) for note in found]}</ul>
</section>
</div>
{CHAT}
</div>
<script src="static/live.js" defer></script>""")


def count(total: int) -> str:
    """How many notes there are, for a person."""
    return f"{total} note{'' if total == 1 else 's'}" if total else "No notes yet: write the first one."


def card(note: Note) -> Markup:
    """One note in the list; also what the event of a new note brings."""
    text = note.text if len(note.text) <= SHOWN else note.text[:SHOWN].rstrip() + "…"
    return html(t"""<li id="note-{note.id}"><a class="card" href="notes/{note.id}">
<h2>{note.title}</h2><p class="text">{text}</p>{_when(note.updated)}</a></li>
""")


CHAT = html(t"""<aside class="panel chat" data-chat="ws/chat">
<h1>Chat <span id="live" role="status" data-state="off">Connecting…</span></h1>
<ol id="said" role="log" aria-label="What was said" tabindex="0"></ol>
<form id="say">
<label>Your name<input name="name" maxlength="30" autocomplete="nickname" required></label>
<label>Message<input name="text" maxlength="500" autocomplete="off" required></label>
<button disabled>Send</button>
</form>
<noscript><p class="problem">The chat needs JavaScript, and so do notes that appear by themselves.</p></noscript>
</aside>""")


def note_form(
    action: str,
    heading: str,
    button: str,
    title: str,
    text: str,
    problems: dict[str, str],
    *,
    compact: bool = False,
) -> Markup:
    """The form of a new note or an edited one; `problems` stand beside the fields they are about."""
    rows = 3 if compact else 12
    return html(t"""<section class="panel">
<h1>{heading}</h1>
<form action="{action}" method="post">
<label>Title<input name="title" value="{title}" maxlength="200" required></label>{_problem(problems, "title")}
<label>Text<textarea name="text" rows="{rows}">
{text}</textarea></label>{_problem(problems, "text")}
<button>{button}</button>
</form>
</section>""")


def _problem(problems: dict[str, str], field: str) -> Markup:
    return html(t'<p class="problem">{field} {problems[field]}</p>') if field in problems else html(t"")


def note(shown: Note) -> Markup:
    """One note to read and edit."""
    form = note_form(f"notes/{shown.id}", "Edit", "Save", shown.title, shown.text, {})
    return html(t"""<article class="panel">
<h1>{shown.title}</h1>
<p class="text">{shown.text}</p>
<p class="meta">Written {_when(shown.created)}, changed {_when(shown.updated)}, revision {shown.revision}</p>
</article>
{form}
<form action="notes/{shown.id}/delete" method="post">
<button class="danger">Delete this note</button>
</form>""")


def files(stored: list[StoredFile], most: int) -> Markup:
    """The upload form and the files. `most` is the largest size allowed, in bytes."""
    table = html(t"""<table>
<thead><tr><th>Name</th><th>Type</th><th class="number">Size</th><th>Uploaded</th><th></th></tr></thead>
<tbody>{[_row(file) for file in stored]}</tbody>
</table>""")
    nothing = html(t'<p class="count">No files yet.</p>')
    return html(t"""<section class="panel">
<h1>Upload a file</h1>
<form action="files" method="post" enctype="multipart/form-data">
<label>File, up to {size(most)}<input type="file" name="file" required></label>
<button>Upload</button>
</form>
</section>
<section>{table if stored else nothing}</section>""")


def _row(file: StoredFile) -> Markup:
    return html(t"""<tr>
<td><a href="files/{file.id}" title="SHA-256 {file.sha256}">{file.name}</a></td>
<td>{file.type}</td>
<td class="number" title="{file.size} bytes">{size(file.size)}</td>
<td>{_when(file.created)}</td>
<td><form action="files/{file.id}/delete" method="post"><button class="quiet">Delete</button></form></td>
</tr>
""")


def clock() -> Markup:
    """The clock; static/clock.js moves it with the events of /clock/events."""
    return html(t"""<section class="panel clock">
<h1>The server's clock</h1>
<p id="time" data-events="clock/events">--:--:--</p>
<p class="count"><span id="status">Connecting…</span> <span id="count"></span></p>
<noscript><p class="problem">The clock needs JavaScript; the rest of this site does not.</p></noscript>
</section>
<script src="static/clock.js" defer></script>""")


def problem(status: int, message: str) -> Markup:
    """An error, said plainly."""
    return html(t"""<section class="panel"><h1>{status}</h1><p>{message}</p>
<p><a href=".">Back to the notes</a></p></section>""")


def size(count: int) -> str:
    """Bytes for a person: `512 bytes`, `1.5 KiB`, `4.0 MiB`."""
    if count < 1024:
        return f"{count} byte{'' if count == 1 else 's'}"
    return f"{count / 1024:.1f} KiB" if count < 1024**2 else f"{count / 1024**2:.1f} MiB"


def _when(moment: str) -> Markup:
    return html(t'<time datetime="{moment}">{moment[:10]} {moment[11:16]} UTC</time>')
