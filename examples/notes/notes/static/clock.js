// Shows the ticks of /clock/events. EventSource opens the stream again by itself whenever it ends.
const time = document.getElementById("time");
const status = document.getElementById("status");
const count = document.getElementById("count");
const events = new EventSource(new URL(time.dataset.events, document.baseURI));
events.addEventListener("open", () => { status.textContent = "Connected:"; });
events.addEventListener("error", () => { status.textContent = "Reconnecting…"; });
events.addEventListener("tick", (event) => {
  time.textContent = event.data.slice(11, 19);
  status.textContent = "Connected:";
  count.textContent = `tick ${event.lastEventId}, UTC`;
});
