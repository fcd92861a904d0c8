"""The applications that `test_frameworks` and `test_real_clients` serve: their source, as `demo.py` of a daemon."""

FASTAPI = '''
import asyncio, hashlib, os, threading
from contextlib import asynccontextmanager
from typing import Annotated

import anyio.to_thread
import httpx
from fastapi import BackgroundTasks, Depends, FastAPI, HTTPException, Request, UploadFile, WebSocket
from fastapi.responses import StreamingResponse
from fastapi.sse import EventSourceResponse, ServerSentEvent
from pydantic import BaseModel

all_inside = threading.Barrier(4)


class Shop:
    """What all threads share: guarded by a lock, as there is no GIL that would do it."""

    def __init__(self):
        self.lock = threading.Lock()
        self.items = []
        self.written = 0


@asynccontextmanager
async def lifespan(app):
    async with httpx.AsyncClient() as shared_async:
        with httpx.Client() as shared:
            home, sold = asyncio.get_running_loop(), asyncio.Event()
            clients = {"client": shared, "async_client": shared_async}
            yield {"shop": Shop(), "home": home, "sold": sold, "waiting": [], **clients}


app = FastAPI(lifespan=lifespan)


class Item(BaseModel):
    name: str
    price: float


def a_session(request: Request):
    shop = request.state.shop
    yield shop
    with shop.lock:
        shop.written += 1


Session = Annotated[Shop, Depends(a_session)]


def here():
    return threading.current_thread().name


@app.get("/def")
def plain():
    return here()


@app.get("/async")
async def coroutine(request: Request):
    return [here(), asyncio.get_running_loop() is request.state.home]


@app.get("/meet/def")
def meet():
    """Answers when four threads are here at once."""
    all_inside.wait(20)
    return here()


@app.get("/meet/async")
async def meet_async():
    all_inside.wait(20)
    return here()


@app.get("/wait")
async def wait(request: Request):
    """Answers, on a thread's loop, when /go was asked for."""
    going = asyncio.Event()
    request.state.waiting.append((asyncio.get_running_loop(), going))
    await going.wait()
    return here()


@app.get("/waiting")
def waiting(request: Request):
    return len(request.state.waiting)


@app.get("/go")
def go(request: Request):
    for loop, going in request.state.waiting:
        loop.call_soon_threadsafe(going.set)


@app.post("/items", status_code=201)
def add(item: Item, session: Session, tasks: BackgroundTasks, request: Request):
    with session.lock:
        session.items.append(item.name)
    # An asyncio object is touched on its own loop only.
    tasks.add_task(request.state.home.call_soon_threadsafe, request.state.sold.set)
    return {"name": item.name, "count": len(session.items)}


@app.get("/items/{number}")
async def one(number: int, session: Session):
    with session.lock:
        if number >= len(session.items):
            raise HTTPException(404, "no such item")
        return {"name": session.items[number], "shop": id(session), "pid": os.getpid(), "written": session.written}


@app.post("/upload")
async def upload(file: UploadFile):
    digest = hashlib.sha256()
    while piece := await file.read(65536):
        digest.update(piece)
    return {"name": file.filename, "sha256": digest.hexdigest()}


@app.get("/lines")
async def lines():
    async def stream():
        for number in range(3):
            await asyncio.sleep(0.01)
            yield f"{number}\\n"
    return StreamingResponse(stream(), media_type="text/plain")


@app.get("/fails")
def fails():
    raise ZeroDivisionError("on purpose")


@app.get("/client")
def with_client(request: Request):
    return request.state.client.get(str(request.url_for("plain"))).json()


@app.get("/async-client")
async def with_async_client(request: Request):
    return (await request.state.async_client.get(str(request.url_for("plain")))).json()


@app.get("/events", response_class=EventSourceResponse)
async def events(request: Request):
    yield ServerSentEvent(data=here(), event="thread")
    await request.state.sold.wait()
    yield ServerSentEvent(data="sold")


@app.get("/limit")
async def limit():
    return anyio.to_thread.current_default_thread_limiter().total_tokens


@app.get("/sold")
async def sold(request: Request):
    """Waits for what /events waits for as well."""
    await request.state.sold.wait()
    return here()


@app.websocket("/ws")
async def talk(socket: WebSocket):
    await socket.accept(subprotocol="shop")
    await socket.send_json([here(), asyncio.get_running_loop() is socket.state.home])
    async for text in socket.iter_text():
        await socket.send_text(text.upper())
'''

STARLETTE = """
import asyncio, os, threading
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, StreamingResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles

FOLDER = os.path.dirname(__file__)


@asynccontextmanager
async def lifespan(app):
    yield {"home": asyncio.get_running_loop(), "listeners": set(), "done": threading.Event()}


def here():
    return threading.current_thread().name


def plain(request):
    return PlainTextResponse(here())


async def coroutine(request):
    return JSONResponse([here(), await run_in_threadpool(here)])


async def say(request):
    text = (await request.body()).decode()
    state = request.state
    state.home.call_soon_threadsafe(lambda: [queue.put_nowait(text) for queue in state.listeners])
    return PlainTextResponse("", 202, background=BackgroundTask(state.done.set))


def done(request):
    return JSONResponse(request.state.done.wait(20))


async def listen(socket):
    queue = asyncio.Queue()
    socket.state.listeners.add(queue)
    await socket.accept()
    await socket.send_text(await queue.get())
    await socket.close()


async def events(request):
    queue = asyncio.Queue()
    request.state.listeners.add(queue)

    async def stream():
        yield f"data: {here()}\\n\\n"
        yield f"data: {await queue.get()}\\n\\n"

    return StreamingResponse(stream(), media_type="text/event-stream")


class Base(BaseHTTPMiddleware):
    async def dispatch(self, request, call_next):
        return await call_next(request)


class Bare:
    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        await self.app(scope, receive, send)


app = Starlette(
    routes=[
        Route("/def", plain),
        Route("/async", coroutine),
        Route("/say", say, methods=["POST"]),
        Route("/done", done),
        Route("/file", lambda request: FileResponse(os.path.join(FOLDER, "static", "large.bin"))),
        Mount("/static", StaticFiles(directory=os.path.join(FOLDER, "static"))),
        Mount("/base", routes=[Route("/def", plain)], middleware=[Middleware(Base)]),
        Mount("/bare", routes=[Route("/def", plain)], middleware=[Middleware(Bare)]),
        Route("/live/events", events),
        WebSocketRoute("/live/listen", listen),
    ],
    lifespan=lifespan,
)
"""

# One step of a stream is sent only when somebody asks for it by a request of its own: that it arrives shows that
# nothing on the way collects.
STEPWISE = """
import asyncio, hashlib, os
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, StreamingResponse
from starlette.routing import Route, WebSocketRoute

VERSION = "v1"


@asynccontextmanager
async def lifespan(app):
    yield {"home": asyncio.get_running_loop(), "steps": {}}


def steps(state, name):  # on the home loop only
    return state["steps"].setdefault(name, asyncio.Queue())


def hello(request):
    return JSONResponse({"version": VERSION, "from": list(request.client)})


async def digest(request):
    sum, size = hashlib.sha256(), 0
    async for piece in request.stream():
        sum.update(piece)
        size += len(piece)
    return JSONResponse({"sha256": sum.hexdigest(), "size": size})


def step(request):
    state, name = request.state, request.path_params["name"]
    state["home"].call_soon_threadsafe(lambda: steps(state, name).put_nowait(request.query_params["say"]))
    return PlainTextResponse("", 204)


async def stepwise(request):
    queue, events = steps(request.state, request.path_params["name"]), "events" in request.url.path

    async def stream():
        yield "retry: 1\\n\\n" if events else "begin\\n"
        while (said := await queue.get()) != "end":
            yield f"data: {said}\\n\\n" if events else f"{said}\\n"

    return StreamingResponse(stream(), media_type="text/event-stream" if events else "text/plain")


async def echo(socket):
    offered = socket.scope["subprotocols"]
    await socket.accept(subprotocol=offered[0] if offered else None)
    if "version" in socket.query_params:
        await socket.send_text(VERSION)
    while (message := await socket.receive())["type"] == "websocket.receive":
        if message.get("text") == "please close":
            await socket.close(4001, "as you wish")
            break
        await socket.send(message | {"type": "websocket.send"})


app = Starlette(
    routes=[
        Route("/", hello),
        Route("/digest", digest, methods=["POST", "PUT"]),
        Route("/step/{name}", step, methods=["POST"]),
        Route("/text/{name}", stepwise),
        Route("/events/{name}", stepwise),
        Route("/file", lambda request: FileResponse(os.environ["FILE"])),
        WebSocketRoute("/echo", echo),
    ],
    lifespan=lifespan,
)
"""
