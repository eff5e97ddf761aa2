// The page's live stream. It reconnects by itself, and shows the age of the data meanwhile.

import { ApiError, refreshSession } from "./api.js";
import { timeOfDay } from "./format.js";

const STALE_MS = 13000; // a sample takes 8 s at most, and is followed by the next after 2 s
const RECONNECT_MS = 4000;

let source = null;
let last = null;
let receivedAt = 0;
let isOpen = false;
let isSignedOut = false;
let staleText = null; // null: what the page shows is of now
const listeners = new Set();
const staleListeners = new Set();

/** Calls the listener with the last sample and each new one. Returns a function that ends this. */
export function subscribe(listener) {
  listeners.add(listener);
  if (last) listener(last);
  return () => listeners.delete(listener);
}

/** Calls the listener with a sentence when what the page shows gets old, and with null when it is new again. */
export function onStale(listener) {
  staleListeners.add(listener);
  if (staleText) listener(staleText);
  return () => staleListeners.delete(listener);
}

export function connect() {
  if (source) source.close();
  const opened = new EventSource("/api/live");
  source = opened;
  isSignedOut = false;
  source.addEventListener("open", () => { isOpen = true; showConnection(); });
  source.addEventListener("overview", (event) => {
    last = JSON.parse(event.data);
    receivedAt = Date.now();
    isOpen = true;
    showConnection();
    for (const listener of listeners) listener(last);
  });
  source.addEventListener("error", () => {
    isOpen = false;
    showConnection();
    // A browser does not reconnect after a refusal, so the page does: the console may accept the stream later.
    if (opened.readyState === EventSource.CLOSED) setTimeout(() => reconnect(opened), RECONNECT_MS);
  });
}

/** Connects after a refusal. Asks for the session first: it ended with the console, and then the page asks for the token. */
async function reconnect(refused) {
  if (source !== refused) return;
  try {
    const { role } = await refreshSession();
    if (role !== "nobody" && source === refused) connect();
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    setTimeout(() => reconnect(refused), RECONNECT_MS);
  }
}

/** Ends the stream of a page whose session has ended, and drops its last sample. */
export function disconnect() {
  source?.close();
  source = null;
  last = null;
  isOpen = false;
  isSignedOut = true;
  showConnection();
}

function describeConnection() {
  const age = last?.at ? ` · data of ${timeOfDay(last.at)}` : "";
  if (isSignedOut) return ["wait", "Not signed in"];
  if (!isOpen) return ["lost", `Connection lost${age}`];
  const [trouble] = Object.values(last?.troubles ?? {});
  if (trouble) return ["lost", `${trouble.title}${trouble.at ? ` · data of ${timeOfDay(trouble.at)}` : ""}`];
  if (last && Date.now() - receivedAt > STALE_MS) return ["lost", `No new data${age}`];
  return last?.at ? ["live", "Live"] : ["wait", "Connecting …"];
}

function showConnection() {
  const line = document.getElementById("connection");
  const [kind, text] = describeConnection();
  line.dataset.kind = kind;
  if (line.textContent !== text) line.textContent = text;
  showAge();
}

/** Turns the colours of the page to grey while nothing on it is of now: no green may stand above what is not known. */
function showAge() {
  const isStale = last !== null && (!isOpen || Date.now() - receivedAt > STALE_MS);
  const text = isStale ? `Connection lost: data of ${timeOfDay(last.at ?? receivedAt)}` : null;
  document.documentElement.toggleAttribute("data-stale", isStale);
  if (text === staleText) return;
  staleText = text;
  for (const listener of staleListeners) listener(text);
}

setInterval(showConnection, 2000);
