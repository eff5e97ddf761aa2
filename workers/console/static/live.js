// The live stream: one for the page. It comes back by itself, and says meanwhile how old the data is.

import { timeOfDay } from "./format.js";

const STALE_MS = 30000;
const AGAIN_MS = 4000;

let source = null;
let last = null;
let heardAt = 0;
let open = false;
const listeners = new Set();

export const latest = () => last;

/** Calls back with each look at the system, at once with the last one; returns how to end that. */
export function follow(listener) {
  listeners.add(listener);
  if (last) listener(last);
  return () => listeners.delete(listener);
}

export function connect() {
  if (source) source.close();
  source = new EventSource("/api/live");
  source.addEventListener("open", () => { open = true; tell(); });
  source.addEventListener("overview", (event) => {
    last = JSON.parse(event.data);
    heardAt = Date.now();
    open = true;
    tell();
    for (const listener of listeners) listener(last);
  });
  source.addEventListener("error", () => {
    open = false;
    tell();
    // A browser gives up where it was refused; the console may be back, or take us, later.
    if (source.readyState === EventSource.CLOSED) setTimeout(connect, AGAIN_MS);
  });
}

export function disconnect() {
  source?.close();
  source = null;
}

function told() {
  const of = last?.at ? ` · data of ${timeOfDay(last.at)}` : "";
  if (!open) return ["lost", `Connection lost${of}`];
  if (last && Object.keys(last.errors).length) {
    const server = Object.keys(last.errors)[0].startsWith("kafka") ? "Kafka" : "Postgres";
    return ["lost", `${server} does not answer · data of ${timeOfDay(server === "Kafka" ? last.lag.at ?? last.at : last.at)}`];
  }
  if (last && Date.now() - heardAt > STALE_MS) return ["lost", `No news${of}`];
  return last?.at ? ["live", "Live"] : ["wait", "Connecting …"];
}

function tell() {
  const place = document.getElementById("connection");
  const [kind, text] = told();
  place.dataset.kind = kind;
  if (place.textContent !== text) place.textContent = text;
}

setInterval(tell, 2000);
