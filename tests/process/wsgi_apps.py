"""The Flask and Django applications that `test_wsgi` serves: their sources."""

FLASK = '''
import hashlib, threading
from flask import Flask, Response, request, send_file

app = Flask(__name__)
all_inside = threading.Barrier(4)
go_on = threading.Event()


@app.get("/")
def index():
    return {"message": "hello", "address": request.remote_addr, "url": request.url}


@app.get("/meet")
def meet():
    """Answers when four threads are here at once."""
    all_inside.wait(20)
    return threading.current_thread().name


@app.get("/wait")
def wait():
    """Answers when /go was asked for."""
    print("waiting", flush=True)
    return str(go_on.wait(20))


@app.get("/go")
def go():
    go_on.set()
    return "gone"


@app.post("/form")
def form():
    return {"field": request.form["field"], "size": len(request.files["file"].read())}


@app.post("/upload")
def upload():
    digest = hashlib.sha256()
    while piece := request.stream.read(65536):
        digest.update(piece)
    return digest.hexdigest()


@app.get("/stream")
def stream():
    def lines():
        yield "first\\n"
        go_on.wait(20)
        yield "last\\n"
    return Response(lines(), mimetype="text/plain")


@app.get("/download")
def download():
    return send_file("data.bin", etag=True)


@app.get("/error")
def error():
    return {}["a key that is not there"]
'''

DJANGO = '''
import asyncio, hashlib, os, sys, threading
from pathlib import Path

import django
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application
from django.db import connection, models, transaction
from django.http import FileResponse, HttpResponse, JsonResponse, StreamingHttpResponse
from django.urls import path

settings.configure(
    ROOT_URLCONF=__name__,
    SECRET_KEY="for tests",
    ALLOWED_HOSTS=["*"],
    DATABASES={"default": {
        "ENGINE": "django.db.backends.sqlite3", "NAME": "test.db",
        "CONN_MAX_AGE": None, "OPTIONS": {"timeout": 20, "transaction_mode": "IMMEDIATE"},
    }},
    MIDDLEWARE=["django.middleware.common.CommonMiddleware"],
    LOGGING={
        "version": 1,
        "disable_existing_loggers": False,
        "handlers": {"stderr": {"class": "logging.StreamHandler"}},
        "root": {"handlers": ["stderr"], "level": "WARNING"},
        "loggers": {"django": {"handlers": [], "level": "WARNING"}},
    },
)
application = get_wsgi_application()
asynchronous = get_asgi_application()


class Visit(models.Model):
    thread = models.CharField(max_length=50)

    class Meta:
        app_label = "demo"


with connection.schema_editor() as editor:
    editor.create_model(Visit)
connection.close()  # the master's child forks no connection, but this one belongs to the importing thread

all_inside = threading.Barrier(4)
go_on = threading.Event()


def index(request):
    return JsonResponse({"message": "hello", "address": request.META.get("REMOTE_ADDR")})


def meet(request):
    all_inside.wait(20)
    return HttpResponse(threading.current_thread().name)


def visit(request):
    """Uses the ORM, which refuses to work where an event loop runs, on a connection of this thread."""
    with transaction.atomic():
        Visit.objects.create(thread=threading.current_thread().name)
    return HttpResponse(str(id(connection.connection)))


def visits(request):
    return HttpResponse(str(Visit.objects.count()))


def form(request):
    return JsonResponse({"field": request.POST["field"], "size": request.FILES["file"].size})


def upload(request):
    digest = hashlib.sha256()
    while piece := request.read(65536):
        digest.update(piece)
    return HttpResponse(digest.hexdigest())


def stream(request):
    def lines():
        yield "first\\n"
        go_on.wait(20)
        yield "last\\n"
    return StreamingHttpResponse(lines(), content_type="text/plain")


async def aslow(request):
    await asyncio.sleep(0.01)
    count = await Visit.objects.acount()
    return HttpResponse(f"async {count}")


async def astream(request):
    async def lines():
        for number in range(3):
            yield f"{number}\\n"
            await asyncio.sleep(0.01)
    return StreamingHttpResponse(lines(), content_type="text/plain")


def go(request):
    go_on.set()
    return HttpResponse("gone")


def download(request):
    return FileResponse(open("data.bin", "rb"))


def error(request):
    return {}["a key that is not there"]


urlpatterns = [
    path("", index), path("meet", meet), path("visit", visit), path("visits", visits), path("form", form),
    path("upload", upload), path("stream", stream), path("go", go), path("download", download),
    path("error", error), path("aslow", aslow), path("astream", astream),
]
'''

# What `django-admin startproject` and the quickstart of Flask make, shortened, by the names in docs/frameworks.md.
PROJECT = {
    "mysite/__init__.py": "",
    "mysite/settings.py": """
SECRET_KEY = "for tests"
ALLOWED_HOSTS = ["*"]
ROOT_URLCONF = "mysite.urls"
""",
    "mysite/urls.py": """
from django.http import HttpResponse
from django.urls import path

urlpatterns = [path("", lambda request: HttpResponse("hello"))]
""",
    "mysite/wsgi.py": """
from django.core.wsgi import get_wsgi_application

application = get_wsgi_application()
""",
    "mysite/asgi.py": """
from django.core.asgi import get_asgi_application

application = get_asgi_application()
""",
    "shop.py": """
from flask import Flask

app = Flask(__name__)


@app.get("/")
def index():
    return "hello"
""",
}
