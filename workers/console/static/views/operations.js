// What operators did and do: redrives, and replays with their plan and progress.

import { act } from "../api.js";
import { bar } from "../chart.js";
import { confirm, confirmPlainly } from "../dialogs.js";
import { facts, h, link, section, show, status, table } from "../dom.js";
import { count, number, percent, seconds, time, words } from "../format.js";
import { follow } from "../live.js";
import { every, loader } from "../loading.js";

const STATUS = { running: "running", done: "ok", stopped: "warning", failed: "failed", broken_off: "failed" };

/** Reads again whenever an operation has changed. */
function keep(again, signal) {
  let changes = null;
  signal.addEventListener("abort", follow((seen) => {
    if (changes !== null && changes !== seen.changes.operations) again();
    changes = seen.changes.operations;
  }));
}

export function operations({ body, signal }) {
  keep(loader(body, signal, "/api/operations", {}, (found) => section("What operators did", table("Operations", [
    ["Operation", (each) => link(`#/operations/${each.operation}`, number(each.operation))],
    ["Verb", (each) => each.verb],
    ["Status", (each) => status(STATUS[each.status] ?? "unknown", words(each.status))],
    ["Progress", progress],
    ["Who", (each) => each.actor, "cut"],
    ["Why", (each) => each.reason, "wide"],
    ["Began", (each) => time(each.started_at)],
  ], found.operations, { empty: "Nothing yet: no redrive and no replay was ever begun." }))), signal);
}

export function operation({ body, heading, path, signal }) {
  heading.textContent = `Operation ${path[0]}`;
  const again = loader(body, signal, `/api/operations/${path[0]}`, {}, (found) => draw(found, () => again()));
  keep(again, signal);
  every(2, signal, again);
}

/** How much there was to do and how much is done, in the verb's own unit; null where its record does not tell. */
function done({ plan, result }) {
  const sum = (counts) => Object.values(counts ?? {}).reduce((total, each) => total + each, 0);
  if (typeof plan.messages === "number") return { all: plan.messages, so_far: (result.sent ?? 0) + sum(result.not_sent), unit: "message" };
  if (typeof plan.events === "number") return { all: plan.events, so_far: (result.sent ?? 0) + (result.refused ?? 0), unit: "event" };
  if (typeof plan.records === "number" && typeof result.read === "number") return { all: plan.records, so_far: result.read, unit: "record" };
  return null;
}

function progress(each) {
  const far = done(each);
  if (far === null) return "–";
  const share = far.all ? Math.min(1, far.so_far / far.all) : 1;
  return h("span", { class: "share" }, bar(share), ` ${number(far.so_far)} of ${count(far.all, far.unit)}`);
}

function draw(found, again) {
  const far = done(found);
  const share = far && far.all ? Math.min(1, far.so_far / far.all) : null;
  const actions = [link("#/operations", "All operations")];
  if (found.may_stop) actions.push(h("button", { type: "button", "data-key": "stop", on: { click: () => stop(found, again) } }, "Stop …"));
  if (found.may_go_on) actions.push(h("button", { type: "button", class: "primary", "data-key": "go on", on: { click: () => goOn(found) } }, "Go on …"));
  const elsewhere = found.status === "running" && !found.may_stop;
  return [
    h("p", { class: "actions" }, actions),
    section(found.verb, facts(
      ["Status", status(STATUS[found.status] ?? "unknown", words(found.status))],
      ["Progress", far && h("span", {}, h("progress", { max: Math.max(far.all, 1), value: far.so_far, "aria-label": "Progress" }), ` ${number(far.so_far)} of ${count(far.all, far.unit)}${share === null ? "" : `, ${percent(share)}`}`)],
      ["Who", found.actor], ["Why", found.reason], ["Began", time(found.started_at)], ["Last noted", time(found.noted_at)], ["Ended", found.ended_at ? time(found.ended_at) : null],
      ["Took", found.ended_at ? seconds((Date.parse(found.ended_at) - Date.parse(found.started_at)) / 1000) : null]),
    elsewhere && h("p", { class: "quiet" }, "It runs in another process: stop it there, with Ctrl-C."),
    found.command && commandLine(found)),
    part("Result", found.result), part("Plan", found.plan), part("Asked for", found.arguments),
  ];
}

/** What to type to go on with what cannot be gone on with from here. */
function commandLine(found) {
  const said = h("span", { role: "status", class: "quiet" });
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(found.command);
      said.textContent = "Copied";
    } catch {
      document.getSelection().selectAllChildren(text);
      said.textContent = "Selected: copy it with the keyboard";
    }
  };
  const text = h("pre", { tabindex: 0, role: "region", "aria-label": "Command line" }, found.command);
  return [h("p", {}, "It is gone on with from a terminal; the command shows its plan and asks first."), text,
    h("p", {}, h("button", { type: "button", "data-key": "copy", on: { click: copy } }, "Copy"), " ", said)];
}

const GOES_ON = {
  rewind: "It is planned anew, and the group's offsets are set back once it has no members. What is read again is published again, with the same event ids; no credit moves twice.",
  "replay rebuild": "It goes on where its books end, in this console's process, and compares them with the live ones once all is read.",
  "replay shadow": "It goes on where its books end, in this console's process, and compares them with the live ones once all is read.",
};

/** A record's JSON as facts; what is nested, as JSON. */
function part(title, record) {
  const entries = Object.entries(record);
  const plain = (name, value) => {
    if (typeof value === "number") return number(value);
    if (value !== null && typeof value === "object") return h("pre", { tabindex: 0, role: "region", "aria-label": `${title}, ${words(name)}` }, JSON.stringify(value, null, 2));
    return value === null ? "none" : value === true ? "yes" : value === false ? "no" : String(value);
  };
  const empty = (value) => value !== null && typeof value === "object" && !Object.keys(value).length;
  return section(title, entries.length ? facts(...entries.map(([name, value]) => [words(name), empty(value) ? "none" : plain(name, value)])) : h("p", { class: "empty" }, "Nothing."));
}

async function stop(found, again) {
  await confirmPlainly(`Stop operation ${found.operation}?`, "It ends between two messages, and can be gone on with.", "Stop it", () => act(`/api/operations/${found.operation}/stop`));
  again();
}

async function goOn(found) {
  const begun = await confirm(`Go on with operation ${found.operation}?`, GOES_ON[found.verb] ?? `A new ${found.verb} does what is left of it. What was done is not done again.`, "Go on", (because) => act(`/api/operations/${found.operation}/go-on`, { because }));
  if (begun) location.hash = begun.operation === null ? "#/operations" : `#/operations/${begun.operation}`;
}
