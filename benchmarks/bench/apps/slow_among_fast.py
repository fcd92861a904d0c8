"""A FastAPI application with one fast endpoint, and slow ones that block as code that nobody thought about does.

Each slow request takes 75 ms: asleep in a `def`, asleep in an `async def` (the mistake that stops an event loop), or
computing in a `def`. Requests share nothing.
"""

import time

from fastapi import FastAPI

SECONDS = 0.075

app = FastAPI()


@app.get("/")
async def fast() -> dict[str, str]:
    """`{"message":"Hello, World!"}`."""
    return {"message": "Hello, World!"}


@app.get("/sleep")
def sleep() -> dict[str, str]:
    """As a query of a database without async does."""
    time.sleep(SECONDS)
    return {"slow": "sleep"}


@app.get("/sleep-async")
async def sleep_async() -> dict[str, str]:
    """The same where it should not be."""
    time.sleep(SECONDS)  # noqa: ASYNC251 - that is what is measured
    return {"slow": "sleep-async"}


@app.get("/compute")
def compute() -> dict[str, str]:
    """So much time of a CPU, all of it in Python."""
    end = time.thread_time() + SECONDS
    while time.thread_time() < end:
        sum(number * number for number in range(5000))
    return {"slow": "compute"}
