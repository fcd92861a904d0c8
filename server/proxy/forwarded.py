"""The grammar of the Forwarded field (RFC 7239 section 4), which says what several proxies have seen.

Promises: what comes out of ``parse`` is what the grammar says, or MalformedForwarded; a quotation mark that a client
has left open is an error, and never swallows what a proxy wrote behind it. White space beside ";" is taken too, as many
write it. Refuses: to know what the values mean. Pure functions of their arguments.
"""

from __future__ import annotations

import re
from typing import Final

Element = dict[bytes, bytes]

# RFC 9110 5.6.2 and 5.6.4. Possessive, so that no input is read twice.
_TOKEN: Final = rb"[0-9A-Za-z!#$%&'*+\-.^_`|~]++"
_QUOTED: Final = rb'"((?:[^"\\]|\\.)*+)"'
_PAIR: Final = re.compile(
    rb"[ \t]*+(?:(" + _TOKEN + rb")=(?:(" + _TOKEN + rb")|" + _QUOTED + rb"))?[ \t]*+([;,]|\Z)"
)
_ESCAPED: Final = re.compile(rb"\\(.)")


class MalformedForwarded(Exception):
    """The value is none of a Forwarded field; the message says why, without any of its bytes."""


def parse(value: bytes) -> list[Element]:
    """The elements from left to right, without the empty ones: parameters by their lower-case names.

    Raises MalformedForwarded.
    """
    elements: list[Element] = []
    element: Element = {}
    at = 0
    while True:
        pair = _PAIR.match(value, at)
        if pair is None:
            raise MalformedForwarded("it is not a list of name=value pairs (RFC 7239 4)")
        name, token, quoted, separator = pair.groups()
        if name is not None:
            name = name.lower()
            if name in element:
                raise MalformedForwarded("an element has the same parameter twice (RFC 7239 4)")
            element[name] = token if token is not None else _ESCAPED.sub(rb"\1", quoted)
        if separator != b";":
            if element:
                elements.append(element)
            element = {}
        if not separator:
            return elements
        at = pair.end()
