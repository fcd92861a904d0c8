"""The page for people: one document with its style and its script in it, and the policy that lets nothing else run.

Promises: no resource is loaded from anywhere but the stream of events; the Content-Security-Policy names the style and
the script by their hashes, so that nothing that gets into the page by mistake can run.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.resources
import re
from typing import Final


def _hash(document: str, tag: str) -> str:
    """The CSP source for the one element ``tag`` of the document (CSP Level 3, 2.3.1)."""
    (inside,) = re.findall(f"<{tag}>(.*?)</{tag}>", document, flags=re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
    return f"'sha256-{digest}'"


def policy(document: str) -> bytes:
    """The Content-Security-Policy for ``document``."""
    return (
        f"default-src 'none'; script-src {_hash(document, 'script')}; style-src {_hash(document, 'style')}; "
        "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ).encode()


_TEXT: Final = importlib.resources.files(__package__).joinpath("page.html").read_text(encoding="utf-8")
PAGE: Final = _TEXT.encode()
POLICY: Final = policy(_TEXT)
