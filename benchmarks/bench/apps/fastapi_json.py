"""A FastAPI application with one JSON endpoint, and one that collects garbage: an import that is worth sharing."""

import gc

from fastapi import FastAPI
from pydantic import BaseModel

app = FastAPI()


class Answer(BaseModel):
    """What both endpoints give."""

    message: str


@app.get("/")
async def hello() -> Answer:
    """`{"message":"Hello, World!"}`, validated and written by Pydantic."""
    return Answer(message="Hello, World!")


@app.get("/collect")
async def collect() -> Answer:
    """A full collection, as every long-lived child has them: it looks at each object that is not frozen."""
    return Answer(message=f"{gc.collect()} objects")
