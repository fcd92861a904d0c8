"""The raw limit: what Python itself costs for one HTTP exchange, with no parsing, no framework and no application.

    python raw_server.py PORT THREADS

Each thread owns an epoll and its connections; nothing is shared but the listening socket, which every epoll
watches with EPOLLEXCLUSIVE. For each `recv` it sends one constant answer for each end of a head that it sees,
which is right for a load tool that sends whole requests, and for nothing else. It ends on SIGTERM.
"""

import select
import socket
import sys
import threading

ANSWER = (
    b"HTTP/1.1 200 OK\r\n"
    b"server: raw\r\n"
    b"date: Thu, 01 Jan 1970 00:00:00 GMT\r\n"
    b"content-type: text/plain; charset=utf-8\r\n"
    b"content-length: 13\r\n\r\n"
    b"Hello, World!"
)


def serve(listener: socket.socket) -> None:
    """One thread: accept and answer for ever."""
    epoll = select.epoll()
    epoll.register(listener, select.EPOLLIN | select.EPOLLEXCLUSIVE)
    door = listener.fileno()
    connections: dict[int, socket.socket] = {}
    while True:
        for fd, _ in epoll.poll():
            if fd == door:
                try:
                    connection, _ = listener.accept()
                except BlockingIOError:  # the other thread was quicker
                    continue
                connection.setblocking(False)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connections[connection.fileno()] = connection
                epoll.register(connection, select.EPOLLIN)
                continue
            connection = connections[fd]
            try:
                data = connection.recv(65536)
            except ConnectionError:
                data = b""
            if data:
                connection.send(ANSWER * data.count(b"\r\n\r\n"))
            else:
                del connections[fd]
                connection.close()


def main() -> None:
    """Listen on 127.0.0.1 and serve from the number of threads asked for."""
    port, threads = int(sys.argv[1]), int(sys.argv[2])
    with socket.create_server(("127.0.0.1", port), backlog=2048) as listener:
        listener.setblocking(False)
        for _ in range(threads - 1):
            threading.Thread(target=serve, args=(listener,), daemon=True).start()
        serve(listener)


if __name__ == "__main__":
    main()
