"""The server: what runs in a child. Connections, HTTP/1.1, the workers, ASGI, and the life of the child itself."""
