"""A FastAPI application with `def` endpoints: one that answers at once, and one that waits as a database would.

FastAPI has them called in a pool of threads, 40 at a time in each process: anyio's default, which is left alone.
"""

import time

from fastapi import FastAPI
from pydantic import BaseModel

app = FastAPI()


class Answer(BaseModel):
    """What both endpoints give."""

    message: str


@app.get("/")
def hello() -> Answer:
    """`{"message":"Hello, World!"}`, validated and written by Pydantic."""
    return Answer(message="Hello, World!")


@app.get("/wait")
def wait() -> Answer:
    """The same after 5 ms in which the thread is held and no CPU is used."""
    time.sleep(0.005)
    return Answer(message="Hello, World!")
