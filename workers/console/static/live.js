// The last sample, which a page that is shown asks for every 2 s, and the age of the page's data.
//
// No stream: a browser has six connections to a host, for all its tabs, and a stream would keep one for each of them.

import { ApiError, get } from "./api.js";
import { timeOfDay } from "./format.js";

const ASK_MS = 2000;
const STALE_MS = 13000; // a sample takes 8 s at most, and is followed by the next after 2 s

let timer = null; // null: not signed in
let isAsking = false;
let last = null;
let receivedAt = 0; // when the last sample came that is another than the one before
let hasAnswer = false; // to the last question
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

/** Begins to ask for samples. */
export function connect() {
  isSignedOut = false;
  clearInterval(timer);
  timer = setInterval(ask, ASK_MS);
  ask();
}

async function ask() {
  if (isAsking || timer === null || document.hidden) return;
  isAsking = true;
  try {
    const sample = await get("/api/overview", {}, AbortSignal.timeout(STALE_MS));
    if (timer !== null) receive(sample);
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    hasAnswer = false;
    showConnection();
  } finally {
    isAsking = false;
  }
}

function receive(sample) {
  hasAnswer = true;
  if (last === null || sample.at !== last.at) receivedAt = Date.now();
  last = sample;
  showConnection();
  for (const listener of listeners) listener(last);
}

/** Ends the questions of a page whose session has ended, and drops its last sample. */
export function disconnect() {
  clearInterval(timer);
  timer = null;
  last = null;
  hasAnswer = false;
  isSignedOut = true;
  showConnection();
}

function describeConnection() {
  const age = last?.at ? ` · data of ${timeOfDay(last.at)}` : "";
  if (isSignedOut) return ["wait", "Not signed in"];
  if (!hasAnswer) return ["lost", `Connection lost${age}`];
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
  const isStale = last !== null && (!hasAnswer || Date.now() - receivedAt > STALE_MS);
  const text = isStale ? `Connection lost: data of ${timeOfDay(last.at ?? receivedAt)}` : null;
  document.documentElement.toggleAttribute("data-stale", isStale);
  if (text === staleText) return;
  staleText = text;
  for (const listener of staleListeners) listener(text);
}

// A page that is hidden asks nothing, and nobody sees how old it gets.
setInterval(() => { if (!document.hidden) showConnection(); }, 2000);
document.addEventListener("visibilitychange", ask);
