"""What requests are put together from: good pieces, and the doubtful ones that parsers have disagreed about.

Promises: plain tuples of bytes, never changed, so every thread may read them. The doubtful ones break each rule of the
grammar in a few ways, above all those by which requests are smuggled (RFC 9112 11.2).
"""

from __future__ import annotations

from typing import Final

from serverd.server.http import names

# fmt: off
METHODS: Final = (
    b"GET", b"GET", b"GET", b"GET", b"POST", b"POST", b"HEAD", b"PUT", b"PATCH", b"DELETE", b"OPTIONS", b"PROPFIND",
    b"M-SEARCH", b"get", b"A", b"!#$%&'*+-.^_`|~", b"X" * 32,
)
BAD_METHODS: Final = (
    b"", b"CONNECT", b"G T", b"G\x00T", b"G\xe9T", b"X" * 33, b"GET\t", b"\tGET", b"G:T", b"(GET)", b"PRI", b"{}",
    b"\x16\x03\x01", b"\x80", b"@", b"G\x7f",
)

SEGMENTS: Final = (
    b"", b"a", b"index.html", b"%41", b"%2F", b"%00", b"..", b".", b"a;b=c", b"~user", b"a+b", b"[x]", b"^|", b"@:",
    b"%e9", b"a,b", b"!$&'()*", b"static/app.js", b"api/v1/users/17",
)
BAD_SEGMENTS: Final = (
    b"%", b"%4", b"%zz", b"a b", b"\xe9", b"#", b"a#b", b"\\", b"{", b"}", b"`", b"<", b">", b'"', b"\x00", b"\x7f",
    b"\t", b"\r", b"\n", b"\xc3\xa9", b"\x80", b"\x0b",
)
QUERIES: Final = (b"", b"a", b"a=b&c=d", b"q={x}", b"100%", b"a?b", b"%zz", b"\\", b"`|^[]", b"x=/y", b"a=b%20c")
BAD_QUERIES: Final = (b"a b", b"#", b"<", b'"', b"\xff", b"\x00", b"\x1f", b"\r\n", b"\t")
# The whole target, where it is not a path.
TARGETS: Final = (
    b"*", b"http://example.com/", b"http://example.com", b"HTTPS://h:443/p?q", b"http://[::1]:80/", b"http://h?q",
    b"http://other.example/a/b", b"//x/y", b"/",
)
BAD_TARGETS: Final = (
    b"", b"h:80", b"http://", b"http:///", b"http://u@h/", b"ftp://h/", b"http://h:99999/", b"*a", b"a", b"?q",
    b"http:/h", b"http://h:80:80/", b"https://[::1/", b"http://h\\@x/", b"http://h#f", b"\\", b"http://a b/",
    b"http://\xe9/",
)

VERSIONS: Final = (b"HTTP/1.1",) * 7 + (b"HTTP/1.0",)
BAD_VERSIONS: Final = (
    b"", b"HTTP/1.2", b"HTTP/2.0", b"HTTP/0.9", b"http/1.1", b"HTTP/1", b"HTTP/1.10", b"HTTP/11.1", b"HTTP/1,1",
    b"HTTP /1.1", b"HTTP/1.1 ", b"HTTP/1.1\t", b"HTTP/1.\xb9", b"HTTP/ 1.1", b"HTTP/9.9", b"ICY", b"HTTP/1.1\x00",
    b"HTTP/1.1 x",
)

SPACE: Final = (b" ",)
BAD_SPACES: Final = (b"  ", b"\t", b"", b" \t", b"\x0b", b"\x0c", b"\xa0", b"\r", b"\x00")
END: Final = (b"\r\n",)
BAD_ENDS: Final = (
    b"\n", b"\r", b"\r\r\n", b"\n\r", b"\r\n\r\n", b"", b"\r\n ", b"\r\n\t", b"\x00\r\n", b"\x85", b"\r\n\n",
)

COLONS: Final = (b": ", b": ", b": ", b":", b":\t", b": \t ", b":  ")
BAD_COLONS: Final = (b" : ", b"", b" ", b"\t:", b"=", b": :", b"\x00:", b":\x0b", b"::", b";")

PLAIN_NAMES: Final = (*sorted(names.PLAIN), b"X-Unknown", b"x_y", b"A", b"!#$%&'*+-.^_`|~", b"X-" + b"n" * 60)
BAD_NAMES: Final = (
    b"", b"A B", b"N\xe4me", b" Folded", b"\tFolded", b"Host ", b"Content-Length ", b"Transfer-Encoding\t",
    b"a\x00b", b"(x)", b"Content_Length", b"Content\x2dLength\x7f", b"\xefTransfer-Encoding", b'"Host"', b"Host\xa0",
    b"[a]", b"a/b",
)
VALUES: Final = (
    b"", b"a", b"b c", b"text/html, */*;q=0.8", b"\xff\xfe", b"caf\xc3\xa9", b"a\tb", b"gzip, deflate, br", b"0",
    b"a,b,,c", b'"quoted \\" string"', b"name=value; other=1", b"Mozilla/5.0 (X11; Linux x86_64)", b"bytes=0-99",
    b"x" * 90, b"a:b", b"\x80",
)
BAD_VALUES: Final = (
    b"a\x00b", b"v\x0b", b"\x7f", b"a\rb", b"a\nb", b"\x01", b"a\r\n b", b"\x1b[31m", b"\x08", b"\x0c", b"a\r\nB: c",
    b"\x1f",
)

HOSTS: Final = (
    b"h", b"example.com", b"example.com:80", b"127.0.0.1:8000", b"[::1]", b"[::1]:80", b"[2001:db8::1]:", b"h:",
    b"a_b", b"xn--a.example", b"h:65535", b"h:00080", b"a%20b", b"!$&'()*+;=", b"[::ffff:1.2.3.4]", b"EXAMPLE.com.",
    b"h:1",
)
BAD_HOSTS: Final = (
    b"", b"u@h", b"h:x", b"h:65536", b"h:99999", b"a b", b"a,b", b"h/p", b"[::1", b"[v1.x]", b"[fe80::1%25eth0]",
    b"::1", b":80", b"h:80:80", b"h\xe9", b"a%2", b"[]", b"[::1]x", b"h:-1", b"h:+80", b"[1::2::3]", b"h:\xb2",
    b"h:123456", b"#", b"[::1]]:80",
)

# Names of fields that mean something to the parser, with good and bad values.
HOST_NAMES: Final = (b"Host", b"Host", b"host", b"HOST", b"hOsT")
LENGTH_NAMES: Final = (b"Content-Length", b"Content-Length", b"content-length", b"CONTENT-LENGTH")
CODING_NAMES: Final = (b"Transfer-Encoding", b"Transfer-Encoding", b"transfer-encoding", b"TRANSFER-ENCODING")
BAD_LENGTHS: Final = (
    b"", b"+5", b"-5", b"5, 5", b"5,5", b"0x5", b"5_0", b"5.0", b"5 5", b"\xb2", b"9" * 18, b"9" * 19, b"9" * 40,
    b"00000", b"05", b"0" * 17 + b"5", b"0" * 18 + b"5", b"1e1", b"a", b'"5"', b"5;", b"5\x00", b"\xd9\xa5", b"5\t5",
    b"-0",
)
CODINGS: Final = (b"chunked",) * 6 + (b"Chunked", b"CHUNKED", b"chunked\t", b"\tchunked ")
BAD_CODINGS: Final = (
    b"", b"gzip", b"gzip, chunked", b"chunked, gzip", b"chunked, chunked", b"chunked,", b",chunked", b"xchunked",
    b"chunked;q=1", b"identity", b"chunked identity", b"\x0bchunked", b"chun\xc5\xbfed", b'"chunked"',
    b"identity, chunked", b"chunked\x00", b", ,", b"gzip chunked", b"deflate,gzip,chunked",
)
MEANINGS: Final = (
    (b"Connection", (
        b"close", b"keep-alive", b"Close", b"upgrade", b"close, upgrade", b"a, ,Keep-Alive",
        b"Upgrade, HTTP2-Settings", b"",
    )),
    (b"connection", (b"keep-alive", b"close", b"x", b"te, close")),
    (b"Expect", (b"100-continue", b"100-continue", b"100-Continue")),
    (b"Upgrade", (b"websocket", b"h2c", b"")),
    (b"TE", (b"trailers", b"Trailers, deflate;q=0.5", b"gzip", b"")),
    (b"te", (b"trailers",)),
    (b"X-Forwarded-For", (b"192.0.2.1", b"192.0.2.1, [2001:db8::1]:80", b"unknown", b"")),
    (b"x-forwarded-proto", (b"https", b"http, https", b"x")),
    (b"Forwarded", (b"for=192.0.2.1;proto=https", b'for="[2001:db8::1]", for=_a', b";")),
    (b"X-FORWARDED-HOST", (b"example.com", b"a b")),
)
BAD_MEANINGS: Final = (
    (b"Expect", (b"200-ok", b"", b"100-continue, x", b"100-continue;a=b")),
    (b"EXPECT", (b"100-continue", b"nothing")),
    (b"Connection", (b"close\x00", b"\xff", b"keep-alive, close, keep-alive")),
    (b"Content-Length", BAD_LENGTHS),
    (b"Content-Length", (b"0", b"5", b"17")),
    (b"Transfer-Encoding", BAD_CODINGS),
    (b"transfer-Encoding", (b"chunked",)),
    (b"Host", (*HOSTS, *BAD_HOSTS)),
    (b"Trailer", (b"Expires",)),
)

EXTENSIONS: Final = (b"",) * 12 + (
    b";a", b";a=b", b';a="b;c"', b'; a = "\\""', b";a;b;c", b';a="\xff\t"', b";a=b \t;c", b";" + b"e" * 200,
)
BAD_EXTENSIONS: Final = (
    b";", b" ;a", b" ", b"\t", b";;a", b";a=", b";a=b;", b';a="b', b";a b", b";\x00", b"; ", b'a', b";a=\xff",
    b';a="\x00"', b";a\n", b";\rb", b";a=\"\\\r\n", b";" + b"e" * 1024, b",a",
)
BAD_SIZES: Final = (
    b"", b"g", b"0x5", b"+5", b"-5", b" 5", b"5 ", b"5_0", b"\xb2", b"0" * 16, b"f" * 15, b"f" * 16,
    b"1" + b"0" * 16, b"5.0", b"\x00", b"-0", b"5\t", b"0" * 1100,
)
# The right size, in a way that only some read.
ODD_SIZES: Final = (
    b"0x%x", b"+%x", b" %x", b"%x ", b"%x\t", b"%016x", b"%021x", b"%040x", b"-%x", b"%x;", b"0%x_", b"%xh", b"%x\x00",
)
TRAILERS: Final = (b"",) * 8 + (
    b"A: b\r\n", b"Via: 3\r\nHost: x\r\n", b"Content-Length: 5\r\n", b"a:\r\n",
    b"X: " + b"t" * 300 + b"\r\n", b"a:\xff\r\n",
)
BAD_TRAILERS: Final = (
    b"A b\r\n", b"A : b\r\n", b" folded\r\n", b"A: b\n", b"A: b\r", b": b\r\n", b"A: \x00\r\n",
    b"X: " + b"t" * 9000 + b"\r\n", b"A\r\n", b"\n", b"\r\r\n", b"A: b\r\n\tc\r\n", b"G\xe9: b\r\n",
    b"GET / HTTP/1.1\r\n",
)

# Bytes that a mutation puts somewhere.
TOKENS: Final = (
    b"\r\n", b"\r\n\r\n", b"\n", b"\r", b"\x00", b" ", b"\t", b":", b"\x0b", b"\xff", b"\x7f", b"%", b",", b";",
    b"0\r\n\r\n", b"0", b"chunked", b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"Host: x\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"HTTP/1.1", b" HTTP/1.1\r\n", b"\r\n ", b"?", b"#", b"/", b"\\", b'"',
    b"@", b"[", b"]", b"*", b"http://", b"\x85", b"\xe2\x80\xa8", b"\x1c", b"_", b"+", b"-", b"1", b"f", b"A",
)
# fmt: on
