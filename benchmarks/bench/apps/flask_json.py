"""A Flask application with one JSON endpoint, as its quickstart writes it: what most WSGI servers serve all day."""

from flask import Flask

app = Flask(__name__)


@app.get("/")
def hello() -> dict[str, str]:
    """`{"message":"Hello, World!"}` and a newline, from Flask's own JSON provider."""
    return {"message": "Hello, World!"}
