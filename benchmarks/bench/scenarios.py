"""The scenarios by their names, in the order in which they are measured: each a function from a Context to a Plan.

What is not the rate of one load against many servers is a section: sections.py.
"""

from collections.abc import Callable

from . import scenarios_frameworks as frameworks
from . import scenarios_http as http
from .plan import Context, Plan

SCENARIOS: dict[str, Callable[[Context], Plan]] = {
    "hello": http.hello,
    "browser": http.browser,
    "response-10k": http.response,
    "echo-10k": http.echo,
    "fastapi": frameworks.fastapi,
    "fastapi-def": frameworks.fastapi_def,
    "flask": frameworks.flask,
    "django": frameworks.django,
    "blocking": frameworks.blocking,
    "pathsend": frameworks.pathsend,
    "https": http.https,
    "websocket": http.websocket,
    "async": http.asynchronous,
}
