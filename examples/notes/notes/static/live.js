// An open page: notes appear as they are written (EventSource), and people talk (WebSocket). Both connect again by
// themselves when the server restarts, hands over to new code, or was out of reach.
const live = document.getElementById("live");
const notes = document.getElementById("notes");
const said = document.getElementById("said");
const form = document.getElementById("say");
const [name, text, send] = [form.elements.name, form.elements.text, form.querySelector("button")];
const connected = { notes: !notes.dataset.events, chat: false };

function show(part, is) {
  connected[part] = is;
  const all = connected.notes && connected.chat;
  live.textContent = all ? "Connected" : "Reconnecting…";
  live.dataset.state = all ? "on" : "off";
  send.disabled = !connected.chat;
}

// Waits longer from try to try, and not as long as the next page does: they must not all come back in one moment.
function backOff() {
  let seconds = 0.2;
  return {
    reset() { seconds = 0.2; },
    again(call) {
      setTimeout(call, 1000 * seconds * (0.5 + Math.random()));
      seconds = Math.min(2 * seconds, 10);
    },
  };
}

// New notes. EventSource connects again by itself after the end of a stream, with the last id; only after an answer that
// is no stream (a proxy's 502, say) does it give up.
function watch(address, pause) {
  const events = new EventSource(address);
  events.addEventListener("open", () => { pause.reset(); show("notes", true); });
  events.addEventListener("error", () => {
    show("notes", false);
    if (events.readyState === EventSource.CLOSED) pause.again(() => watch(address, pause));
  });
  events.addEventListener("note", (event) => {
    const { id, card, count } = JSON.parse(event.data);
    address.searchParams.set("after", id);
    document.getElementById("count").textContent = count;
    if (document.getElementById(`note-${id}`)) return;
    notes.insertAdjacentHTML("afterbegin", card); // escaped by the server, as in the page itself
    notes.firstElementChild.classList.add("new");
  });
}

// The chat. A WebSocket never connects again by itself.
let socket;
function join(address, pause) {
  socket = new WebSocket(address);
  socket.addEventListener("open", () => { pause.reset(); show("chat", true); });
  socket.addEventListener("close", () => { show("chat", false); pause.again(() => join(address, pause)); });
  socket.addEventListener("message", (event) => add(JSON.parse(event.data)));
}

function add({ name, text, at }) {
  const atEnd = said.scrollHeight - said.scrollTop - said.clientHeight < 40;
  const line = document.createElement("li");
  const who = document.createElement("b");
  const when = document.createElement("time");
  who.textContent = name;
  when.textContent = new Date(at).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
  when.dateTime = at;
  line.append(who, " ", when, document.createElement("br"), text);
  said.append(line);
  while (said.children.length > 200) said.firstElementChild.remove();
  if (atEnd) said.scrollTop = said.scrollHeight;
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  if (socket.readyState !== WebSocket.OPEN) return; // what was typed stays for when it is back
  localStorage.setItem("name", name.value);
  socket.send(JSON.stringify({ name: name.value, text: text.value }));
  text.value = "";
  text.focus();
});

name.value = localStorage.getItem("name") ?? `Guest ${Math.floor(100 + 900 * Math.random())}`;
const chat = new URL(form.parentElement.dataset.chat, document.baseURI);
chat.protocol = chat.protocol.replace("http", "ws");
join(chat, backOff());
if (notes.dataset.events) watch(new URL(notes.dataset.events, document.baseURI), backOff());
