"""A Django application in one file: a page from a template with a loop, no database, the middleware of a new project.

Of what `startproject` sets up, sessions, accounts and messages are left out: they need a database.
"""

from django.conf import settings  # type: ignore[import-untyped]
from django.core.handlers.wsgi import WSGIHandler  # type: ignore[import-untyped]
from django.core.wsgi import get_wsgi_application  # type: ignore[import-untyped]
from django.http import HttpRequest, HttpResponse  # type: ignore[import-untyped]
from django.shortcuts import render  # type: ignore[import-untyped]
from django.urls import path  # type: ignore[import-untyped]

ROWS = 20
PAGE = """<!doctype html>
<title>{{ title }}</title>
<h1>{{ title }}</h1>
<ul>
{% for item in items %}<li><a href="/items/{{ item.number }}">{{ item.name }}</a></li>
{% endfor %}</ul>
"""

settings.configure(
    DEBUG=False,
    SECRET_KEY="for a measurement",
    ALLOWED_HOSTS=["127.0.0.1"],
    ROOT_URLCONF=__name__,
    MIDDLEWARE=[
        "django.middleware.security.SecurityMiddleware",
        "django.middleware.common.CommonMiddleware",
        "django.middleware.csrf.CsrfViewMiddleware",
        "django.middleware.clickjacking.XFrameOptionsMiddleware",
    ],
    TEMPLATES=[
        {
            "BACKEND": "django.template.backends.django.DjangoTemplates",
            "OPTIONS": {
                "loaders": [
                    (
                        "django.template.loaders.cached.Loader",
                        [("django.template.loaders.locmem.Loader", {"page.html": PAGE})],
                    )
                ]
            },
        }
    ],
)


def page(request: HttpRequest) -> HttpResponse:
    """The list, with names that have to be escaped."""
    items = [{"number": number, "name": f"item {number} & more"} for number in range(ROWS)]
    return render(request, "page.html", {"title": "Items", "items": items})


urlpatterns = [path("", page)]
app: WSGIHandler = get_wsgi_application()
