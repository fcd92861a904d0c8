"""Spellings of field names that clients really send, each with its lower-case form.

Promises: every key and value is a literal in this source. On a free-threaded CPython the constants of a module that was
loaded from its byte code (not of one that this process compiled) are immortal, so threads that look them up never
write to a shared reference count: with two threads a look-up, a partition and a translate took 482 ns with immortal
tables and 888 with ordinary bytes. Refuses: to learn. A cache that threads fill would have to be locked, and a client
could fill it. A name that is not here is checked and lowered the slow way.
"""

from typing import Final

# fmt: off
# Names that the parser only hands on. Both spellings: as browsers and libraries write it, and as HTTP/2 gateways do.
PLAIN: Final[dict[bytes, bytes]] = {
    b"User-Agent": b"user-agent", b"user-agent": b"user-agent",
    b"Accept": b"accept", b"accept": b"accept",
    b"Accept-Charset": b"accept-charset", b"accept-charset": b"accept-charset",
    b"Accept-Encoding": b"accept-encoding", b"accept-encoding": b"accept-encoding",
    b"Accept-Language": b"accept-language", b"accept-language": b"accept-language",
    b"Authorization": b"authorization", b"authorization": b"authorization",
    b"Cache-Control": b"cache-control", b"cache-control": b"cache-control",
    b"Content-Encoding": b"content-encoding", b"content-encoding": b"content-encoding",
    b"Content-Language": b"content-language", b"content-language": b"content-language",
    b"Content-Type": b"content-type", b"content-type": b"content-type",
    b"Cookie": b"cookie", b"cookie": b"cookie",
    b"DNT": b"dnt", b"dnt": b"dnt",
    b"Date": b"date", b"date": b"date",
    b"ETag": b"etag", b"etag": b"etag",
    b"From": b"from", b"from": b"from",
    b"If-Match": b"if-match", b"if-match": b"if-match",
    b"If-Modified-Since": b"if-modified-since", b"if-modified-since": b"if-modified-since",
    b"If-None-Match": b"if-none-match", b"if-none-match": b"if-none-match",
    b"If-Range": b"if-range", b"if-range": b"if-range",
    b"If-Unmodified-Since": b"if-unmodified-since", b"if-unmodified-since": b"if-unmodified-since",
    b"Keep-Alive": b"keep-alive", b"keep-alive": b"keep-alive",
    b"Last-Event-ID": b"last-event-id",
    b"last-event-id": b"last-event-id",
    b"Last-Event-Id": b"last-event-id",
    b"Origin": b"origin", b"origin": b"origin",
    b"Pragma": b"pragma", b"pragma": b"pragma",
    b"Priority": b"priority", b"priority": b"priority",
    b"Range": b"range", b"range": b"range",
    b"Referer": b"referer", b"referer": b"referer",
    b"Save-Data": b"save-data", b"save-data": b"save-data",
    b"Sec-CH-UA": b"sec-ch-ua", b"sec-ch-ua": b"sec-ch-ua", b"Sec-Ch-Ua": b"sec-ch-ua",
    b"Sec-CH-UA-Mobile": b"sec-ch-ua-mobile",
    b"sec-ch-ua-mobile": b"sec-ch-ua-mobile",
    b"Sec-Ch-Ua-Mobile": b"sec-ch-ua-mobile",
    b"Sec-CH-UA-Platform": b"sec-ch-ua-platform",
    b"sec-ch-ua-platform": b"sec-ch-ua-platform",
    b"Sec-Ch-Ua-Platform": b"sec-ch-ua-platform",
    b"Sec-Fetch-Dest": b"sec-fetch-dest", b"sec-fetch-dest": b"sec-fetch-dest",
    b"Sec-Fetch-Mode": b"sec-fetch-mode", b"sec-fetch-mode": b"sec-fetch-mode",
    b"Sec-Fetch-Site": b"sec-fetch-site", b"sec-fetch-site": b"sec-fetch-site",
    b"Sec-Fetch-User": b"sec-fetch-user", b"sec-fetch-user": b"sec-fetch-user",
    b"Sec-GPC": b"sec-gpc", b"sec-gpc": b"sec-gpc", b"Sec-Gpc": b"sec-gpc",
    b"Sec-WebSocket-Extensions": b"sec-websocket-extensions",
    b"sec-websocket-extensions": b"sec-websocket-extensions",
    b"Sec-Websocket-Extensions": b"sec-websocket-extensions",
    b"Sec-WebSocket-Key": b"sec-websocket-key",
    b"sec-websocket-key": b"sec-websocket-key",
    b"Sec-Websocket-Key": b"sec-websocket-key",
    b"Sec-WebSocket-Protocol": b"sec-websocket-protocol",
    b"sec-websocket-protocol": b"sec-websocket-protocol",
    b"Sec-Websocket-Protocol": b"sec-websocket-protocol",
    b"Sec-WebSocket-Version": b"sec-websocket-version",
    b"sec-websocket-version": b"sec-websocket-version",
    b"Sec-Websocket-Version": b"sec-websocket-version",
    b"Traceparent": b"traceparent", b"traceparent": b"traceparent",
    b"Tracestate": b"tracestate", b"tracestate": b"tracestate",
    b"Upgrade-Insecure-Requests": b"upgrade-insecure-requests",
    b"upgrade-insecure-requests": b"upgrade-insecure-requests",
    b"Via": b"via", b"via": b"via",
    b"X-API-Key": b"x-api-key", b"x-api-key": b"x-api-key", b"X-Api-Key": b"x-api-key",
    b"X-CSRF-Token": b"x-csrf-token", b"x-csrf-token": b"x-csrf-token", b"X-Csrf-Token": b"x-csrf-token",
    b"X-Correlation-ID": b"x-correlation-id",
    b"x-correlation-id": b"x-correlation-id",
    b"X-Correlation-Id": b"x-correlation-id",
    b"X-Real-IP": b"x-real-ip", b"x-real-ip": b"x-real-ip", b"X-Real-Ip": b"x-real-ip",
    b"X-Request-ID": b"x-request-id", b"x-request-id": b"x-request-id", b"X-Request-Id": b"x-request-id",
    b"X-Requested-With": b"x-requested-with", b"x-requested-with": b"x-requested-with",
}

# Names that say something about the connection, the body or the client: the parser looks at their values, or says that
# they are there.
SPECIAL: Final[dict[bytes, bytes]] = {
    b"Host": b"host", b"host": b"host",
    b"Connection": b"connection", b"connection": b"connection",
    b"Content-Length": b"content-length", b"content-length": b"content-length",
    b"Transfer-Encoding": b"transfer-encoding", b"transfer-encoding": b"transfer-encoding",
    b"Expect": b"expect", b"expect": b"expect",
    b"TE": b"te", b"te": b"te",
    b"Upgrade": b"upgrade", b"upgrade": b"upgrade",
    b"Forwarded": b"forwarded", b"forwarded": b"forwarded",
    b"X-Forwarded-For": b"x-forwarded-for", b"x-forwarded-for": b"x-forwarded-for",
    b"X-Forwarded-Host": b"x-forwarded-host", b"x-forwarded-host": b"x-forwarded-host",
    b"X-Forwarded-Port": b"x-forwarded-port", b"x-forwarded-port": b"x-forwarded-port",
    b"X-Forwarded-Proto": b"x-forwarded-proto", b"x-forwarded-proto": b"x-forwarded-proto",
}
# fmt: on

# By these proxies tell of clients: what they say is for ``server.proxy``.
OF_PROXIES: Final = (
    b"forwarded",
    b"x-forwarded-for",
    b"x-forwarded-host",
    b"x-forwarded-port",
    b"x-forwarded-proto",
)
