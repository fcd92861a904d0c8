"""The opening handshake: what is taken, what is refused and with what, and what the answer says."""

from __future__ import annotations

from typing import Any

import pytest

from serverd.server.http import HeadLimits, parse_request
from serverd.server.http.response import ResponseError
from serverd.server.websocket.handshake import Handshake, HandshakeRefused

from .support.websocket import handshake

LIMITS = HeadLimits(8192, 32768, 100)
DATE = b"Mon, 23 Nov 2026 08:00:00 GMT"


def shake(compression: bool = True, **change: Any) -> Handshake:
    request = parse_request(handshake(**change), LIMITS)
    assert request is not None
    return Handshake(request, compression)


def answer(hands: Handshake, subprotocol: str | None = None, headers: Any = ()) -> list[str]:
    """The lines of the 101 response."""
    return hands.response(subprotocol, list(headers), DATE).decode().split("\r\n")


def test_the_answer() -> None:
    assert answer(shake(), None, [(b"x-app", b"1"), (b"Set-Cookie", b"a=b")]) == [
        "HTTP/1.1 101 Switching Protocols",
        "upgrade: websocket",
        "connection: Upgrade",
        # The value of RFC 6455 1.3 for its key is in test_the_key_of_the_rfc.
        "sec-websocket-accept: Bz3qJYTGdOe8gUSpLosEdiLKDrk=",
        f"date: {DATE.decode()}",
        "x-app: 1",
        "Set-Cookie: a=b",
        "",
        "",
    ]


def test_the_key_of_the_rfc() -> None:
    lines = answer(shake(sec_websocket_key="dGhlIHNhbXBsZSBub25jZQ=="))
    assert "sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in lines


@pytest.mark.parametrize(
    "change",
    [
        {"upgrade": "WebSocket"},
        {"connection": "keep-alive, upgrade"},
        {"sec_websocket_protocol": "chat", "origin": "https://example.com", "cookie": "a=b"},
        {"sec_websocket_extensions": "x-webkit-deflate-frame"},
        {"target": "/a%20b?x=1"},
    ],
)
def test_handshakes_that_are_right(change: dict[str, Any]) -> None:
    assert answer(shake(**change))[0] == "HTTP/1.1 101 Switching Protocols"


@pytest.mark.parametrize(
    ("status", "words", "change"),
    [
        (405, "GET", {"method": "POST"}),
        (400, "HTTP/1.0", {"version": "HTTP/1.0"}),
        (400, "pass Upgrade on", {"without": "upgrade"}),
        (400, "Upgrade", {"upgrade": "websocket, h2c"}),
        (400, "Connection", {"without": "connection"}),
        (400, "Connection", {"connection": "keep-alive"}),
        (400, "Sec-WebSocket-Key", {"without": "sec-websocket-key"}),
        (400, "Sec-WebSocket-Key", {"sec_websocket_key": "short"}),
        (400, "Sec-WebSocket-Key", {"sec_websocket_key": "AAAA"}),
        (400, "Sec-WebSocket-Version", {"without": "sec-websocket-version"}),
        (426, "version 13", {"sec_websocket_version": "8"}),
        (426, "version 13", {"sec_websocket_version": "13, 8"}),
        (400, "Protocol", {"sec_websocket_protocol": "a b"}),
        (400, "xtensions", {"sec_websocket_extensions": "permessage-deflate; ="}),
        (400, "body", {"content_length": "3"}),
        (400, "body", {"transfer_encoding": "chunked"}),
    ],
)
def test_handshakes_that_are_wrong(status: int, words: str, change: dict[str, Any]) -> None:
    with pytest.raises(HandshakeRefused) as caught:
        shake(**change)
    assert caught.value.status == status
    assert words in caught.value.message
    values = [text for name, text in change.items() if name not in ("method", "version", "without")]
    assert not [text for text in values if len(text) > 3 and text in caught.value.message]
    assert "\n" not in caught.value.message
    assert ((b"sec-websocket-version", b"13") in caught.value.headers) == (status == 426)
    assert ((b"allow", b"GET") in caught.value.headers) == (status == 405)


def test_compression_is_agreed_on_when_both_want_it() -> None:
    offer: dict[str, Any] = {"sec_websocket_extensions": "permessage-deflate; client_max_window_bits"}
    agreed = (
        "sec-websocket-extensions: permessage-deflate; server_max_window_bits=12; client_max_window_bits=12"
    )
    assert agreed in answer(shake(**offer))
    assert len(answer(shake(False, **offer))) == len(answer(shake()))
    for bad in ("server_max_window_bits=7", "client_max_window_bits=16", "what=1"):
        assert len(answer(shake(sec_websocket_extensions=f"permessage-deflate; {bad}"))) == len(
            answer(shake())
        )


def test_subprotocols() -> None:
    hands = shake(sec_websocket_protocol="soap, wamp")
    assert hands.offered == ["soap", "wamp"]
    assert "sec-websocket-protocol: wamp" in answer(hands, "wamp")
    assert len(answer(hands)) == len(answer(shake()))
    with pytest.raises(ResponseError, match=r"'chat' is not one of the 2 that the client offered$"):
        answer(hands, "chat")
    with pytest.raises(ResponseError, match="not one of the 0 that"):
        answer(shake(), "chat")


def test_fields_of_the_application_cannot_break_the_handshake() -> None:
    dropped = [
        (b"Connection", b"close"),
        (b"content-length", b"0"),
        (b"upgrade", b"x"),
        (b"transfer-encoding", b"chunked"),
    ]
    assert answer(shake(), None, dropped) == answer(shake())
    assert "date: then" in answer(shake(), None, [(b"date", b"then")])
    for bad in [
        (b"sec-websocket-protocol", b"chat"),
        (b"Sec-WebSocket-Accept", b"x"),
        (b"x-a", b"1\r\nx-b: 2"),
        (b"x a", b"1"),
    ]:
        with pytest.raises(ResponseError):
            answer(shake(), None, [bad])
