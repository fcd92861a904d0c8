"""A FastAPI application that tells which version of it was imported: `{"version":3}`.

The number is read from version.txt beside this file, once, when the module is imported: a server that answers with
another number has imported the application again. A measurement copies this file into a folder of its own.
"""

from pathlib import Path

from fastapi import FastAPI

VERSION = int(Path(__file__).with_name("version.txt").read_text())

app = FastAPI()


@app.get("/")
async def version() -> dict[str, int]:
    """What was read at the import."""
    return {"version": VERSION}
