"""The key exchange groups that our TLS offers: those of Mozilla's "intermediate" profile, and the post-quantum hybrid.

CPython has ``SSLContext.set_groups`` from 3.15 on. In 3.14 only a single group can be set, and OpenSSL's defaults have
two more (X448, P-521), which the profile leaves out. So in 3.14 the function of OpenSSL is called by ctypes, with the
pointer that the SSLContext holds as its first field. That is done only where the object has exactly the size that it
has in 3.14 (Modules/_ssl.c, ``PySSLContext``), and with the very library that ``_ssl`` is linked to; anywhere else
OpenSSL's defaults stay, which are safe too.

For contexts that nobody else uses yet.
"""

from __future__ import annotations

import importlib
import ssl
import sys
from typing import Final

# The best first: those of Mozilla's profile 5.7. The hybrid needs OpenSSL 3.5.
_GROUPS: Final = ("X25519", "P-256", "P-384")
_HYBRID: Final = "X25519MLKEM768"

_SET_GROUPS_LIST: Final = 92  # SSL_CTRL_SET_GROUPS_LIST (openssl/ssl.h)
# sizeof(PySSLContext) without the object's head in CPython 3.14: its first field is the SSL_CTX.
_SIZE: Final = 104


def restrict_groups(context: ssl.SSLContext) -> bool:
    """Offer these groups only. False where that is not possible, and nothing was changed."""
    wanted = [":".join((_HYBRID, *_GROUPS)), ":".join(_GROUPS)]
    if ssl.OPENSSL_VERSION_INFO < (3, 5):
        del wanted[0]
    setter = getattr(context, "set_groups", None)
    if setter is not None:
        setter(wanted[0])
        return True
    return _by_ctypes(context, wanted[0])


def _by_ctypes(context: ssl.SSLContext, groups: str) -> bool:
    if sys.version_info[:2] != (3, 14) or type(context).__basicsize__ != object.__basicsize__ + _SIZE:
        return False
    try:
        import ctypes  # noqa: PLC0415 - a build of Python may lack it

        library = ctypes.CDLL(importlib.import_module("_ssl").__file__)
        control = library.SSL_CTX_ctrl
    except ImportError, AttributeError, OSError, TypeError:
        return False
    control.restype = ctypes.c_long
    control.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_long, ctypes.c_char_p]
    pointer = ctypes.c_void_p.from_address(id(context) + object.__basicsize__)
    return bool(control(pointer, _SET_GROUPS_LIST, 0, groups.encode()))
