"""ASGI: the scope, the messages of a request, the lifespan, and blocking calls on the worker's own thread."""
