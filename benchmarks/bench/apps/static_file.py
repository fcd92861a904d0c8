"""A Starlette application that sends `static.bin`, the file beside it, and tells how its server lets it.

It is copied to where the file is made for a run. FileResponse names the file to a server that has the extension
`http.response.pathsend`, and reads and sends it in pieces to one that has not.
"""

from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import Route

FILE = Path(__file__).with_name("static.bin")


async def file(_: Request) -> Response:
    """The file."""
    return FileResponse(FILE, media_type="application/octet-stream")


async def how(request: Request) -> Response:
    """`pathsend` or `body`."""
    extensions = request.scope.get("extensions") or {}
    return PlainTextResponse("pathsend" if "http.response.pathsend" in extensions else "body")


app = Starlette(routes=[Route("/", file), Route("/how", how)])
