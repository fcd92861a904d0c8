"""Text from outside, made safe to show: in a log, on a terminal, in a message. Pure, and below everything else."""

from typing import Final

_SHORT_ESCAPES: Final = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def escape_text(text: str) -> str:
    """`text` without anything that a terminal or a log reader would act on.

    Newlines, ESC and other control characters, line separators, direction marks and lone surrogates become `\\n`,
    `\\x1b`, `\\u202e`; printable text of every script stays. A backslash stays too: the result is for reading.
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else _escape(char) for char in text)


def escape_lines(text: str) -> str:
    """The same for each line of `text`."""
    return "\n".join(map(escape_text, text.split("\n")))


def _escape(char: str) -> str:
    code = ord(char)
    if char in _SHORT_ESCAPES:
        return _SHORT_ESCAPES[char]
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
