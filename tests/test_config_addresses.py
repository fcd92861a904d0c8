"""Addresses to listen on: what each form means, what is refused, and that an address is written as it is read."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serverd.config import FdAddress, ListenAddress, SystemdAddress, TcpAddress, UnixAddress, parse_address
from serverd.config.errors import BadValue


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:8000", TcpAddress("127.0.0.1", 8000)),
        ("localhost:0", TcpAddress("localhost", 0)),
        ("my-host.example.:65535", TcpAddress("my-host.example.", 65_535)),
        ("[::1]:8000", TcpAddress("::1", 8000)),
        ("[0:0:0:0:0:0:0:1]:80", TcpAddress("::1", 80)),
        ("[fe80::1%eth0]:80", TcpAddress("fe80::1%eth0", 80)),
        ("unix:/run/app.sock", UnixAddress(Path("/run/app.sock"))),
        ("unix:///run/app.sock", UnixAddress(Path("/run/app.sock"))),
        ("fd://3", FdAddress(3)),
        ("systemd", SystemdAddress()),
        ("systemd:http", SystemdAddress("http")),
    ],
)
def test_addresses_that_are_read(text: str, address: ListenAddress) -> None:
    assert parse_address(text) == address
    assert parse_address(str(address)) == address


HOST_PORT = (
    "expected host:port, such as 127.0.0.1:{port} (this machine only), 0.0.0.0:{port} (every IPv4 address) "
    "or [::]:{port}; or unix:PATH, fd://N, systemd"
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", HOST_PORT.format(port=8000)),
        ("8080", HOST_PORT.format(port=8080)),
        (":8080", HOST_PORT.format(port=8080)),
        ("localhost", HOST_PORT.format(port=8000)),
        ("localhost:", "expected host:port with a port from 0 to 65535"),
        ("localhost:http", "expected host:port with a port from 0 to 65535"),
        ("localhost:65536", "expected host:port with a port from 0 to 65535"),
        ("localhost:-1", "expected host:port with a port from 0 to 65535"),
        ("localhost:+80", "expected host:port with a port from 0 to 65535"),
        ("localhost:８０", "expected host:port with a port from 0 to 65535"),
        ("http://localhost:80", "expected host:port, without http://"),
        ("::1:8000", "expected an IPv6 address in brackets, such as [::1]:8000"),
        ("[::g]:80", "expected an IPv6 address between the brackets, such as [::1]:80"),
        ("[127.0.0.1]:80", "expected an IPv6 address between the brackets, such as [::1]:80"),
        ("*:80", "expected host:port; for every address write 0.0.0.0:80 (IPv4) or [::]:80"),
        ("a b:80", "expected host:port with a host name or an IP address"),
        ("-x:80", "expected host:port with a host name or an IP address"),
        ("unix:", "expected unix:PATH, the path of a socket in the file system, such as unix:/run/app.sock"),
        (
            "unix:/run/",
            "expected unix:PATH, the path of a socket in the file system, such as unix:/run/app.sock",
        ),
        (
            "unix:@app",
            "expected unix:PATH, the path of a socket in the file system, such as unix:/run/app.sock",
        ),
        ("fd:3", "expected fd://N, the number of an inherited socket, at least 3"),
        ("fd://2", "expected fd://N, the number of an inherited socket, at least 3"),
        ("fd://x", "expected fd://N, the number of an inherited socket, at least 3"),
        ("fd://9999999", "expected fd://N, the number of an inherited socket, at least 3"),
        ("systemd:", "expected systemd:NAME, with the FileDescriptorName of a socket unit"),
        ("systemd:a b", "expected systemd:NAME, with the FileDescriptorName of a socket unit"),
    ],
)
def test_addresses_that_are_refused(text: str, message: str) -> None:
    with pytest.raises(BadValue) as caught:
        parse_address(text)
    assert str(caught.value) == message


def test_a_unix_path_may_have_107_bytes_and_not_one_more() -> None:
    longest = "/" + "é" * 53  # 1 + 2 * 53 bytes
    assert parse_address(f"unix:{longest}") == UnixAddress(Path(longest))
    with pytest.raises(
        BadValue, match=r"^the path has 108 bytes, and the kernel takes at most 107 for a unix socket$"
    ):
        parse_address(f"unix:{longest}x")


@given(st.text(max_size=150))
def test_any_text_is_an_address_or_refused(text: str) -> None:
    try:
        address = parse_address(text)
    except BadValue:
        return
    assert parse_address(str(address)) == address
