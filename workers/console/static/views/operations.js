// Operations: redrives and replays with their plan, progress and result.

import { post } from "../api.js";
import { bar } from "../chart.js";
import { confirm, confirmWithReason } from "../dialogs.js";
import { facts, h, link, section, show, silentServers, status, table } from "../dom.js";
import { count, number, percent, seconds, time, words } from "../format.js";
import { subscribe } from "../live.js";
import { reloadEvery, startLoader } from "../loading.js";

const STATUS_KINDS = { running: "running", done: "ok", stopped: "warning", failed: "failed", broken_off: "failed" };

/** Calls `reload` whenever an operation has changed. */
function reloadOnChange(reload, signal) {
  let changes = null;
  signal.addEventListener("abort", subscribe((sample) => {
    if (changes !== null && changes !== sample.changes.operations) reload();
    changes = sample.changes.operations;
  }));
}

export function showOperations({ body, signal }) {
  reloadOnChange(startLoader(body, signal, "/api/operations", {}, (found) => [silentServers(found.silent_servers), section("Recorded operations", table("Operations", [
    ["Operation", (each) => link(`#/operations/${each.operation}`, number(each.operation))],
    ["Verb", (each) => each.verb],
    ["Status", (each) => status(STATUS_KINDS[each.status] ?? "unknown", words(each.status))],
    ["Progress", progressCell],
    ["Operator", (each) => each.actor, "cut"],
    ["Reason", (each) => each.reason, "wide"],
    ["Started", (each) => time(each.started_at)],
  ], found.operations, { empty: "No operations yet: no redrive or replay has been started." }))]), signal);
}

export function showOperation({ body, heading, path, signal }) {
  heading.textContent = `Operation ${path[0]}`;
  const reload = startLoader(body, signal, `/api/operations/${path[0]}`, {}, (found) => draw(found, () => reload()));
  reloadOnChange(reload, signal);
  reloadEvery(2, signal, reload);
}

/** Returns the planned and the finished amount with their unit; null where the record has no amounts. */
function readProgress({ plan, result }) {
  const sum = (counts) => Object.values(counts ?? {}).reduce((total, each) => total + each, 0);
  if (typeof plan.messages === "number") return { total: plan.messages, finished: (result.sent ?? 0) + sum(result.not_sent), unit: "message" };
  if (typeof plan.events === "number") return { total: plan.events, finished: (result.sent ?? 0) + (result.refused ?? 0), unit: "event" };
  if (typeof plan.records === "number" && typeof result.read === "number") return { total: plan.records, finished: result.read, unit: "record" };
  return null;
}

function progressCell(each) {
  const progress = readProgress(each);
  if (progress === null) return "–";
  const share = progress.total ? Math.min(1, progress.finished / progress.total) : 1;
  return h("span", { class: "share" }, bar(share), ` ${number(progress.finished)} of ${count(progress.total, progress.unit)}`);
}

function draw(found, reload) {
  const progress = readProgress(found);
  const share = progress && progress.total ? Math.min(1, progress.finished / progress.total) : null;
  const actions = [link("#/operations", "All operations")];
  if (found.may_stop) actions.push(h("button", { type: "button", "data-key": "stop", on: { click: () => stopOperation(found, reload) } }, "Stop …"));
  if (found.may_go_on) actions.push(h("button", { type: "button", class: "primary", "data-key": "continue", on: { click: () => continueOperation(found) } }, "Continue …"));
  const elsewhere = found.status === "running" && !found.may_stop;
  return [
    h("p", { class: "actions" }, actions),
    section(found.verb, facts(
      ["Status", status(STATUS_KINDS[found.status] ?? "unknown", words(found.status))],
      ["Progress", progress && h("span", {}, h("progress", { max: Math.max(progress.total, 1), value: progress.finished, "aria-label": "Progress" }), ` ${number(progress.finished)} of ${count(progress.total, progress.unit)}${share === null ? "" : `, ${percent(share)}`}`)],
      ["Operator", found.actor], ["Reason", found.reason], ["Started", time(found.started_at)], ["Last update", time(found.noted_at)], ["Ended", found.ended_at ? time(found.ended_at) : null],
      ["Duration", found.ended_at ? seconds((Date.parse(found.ended_at) - Date.parse(found.started_at)) / 1000) : null]),
    elsewhere && h("p", { class: "quiet" }, "This operation runs in another process: stop it there, with Ctrl-C."),
    found.command && commandLine(found)),
    recordSection("Result", found.result), recordSection("Plan", found.plan), recordSection("Arguments", found.arguments),
  ];
}

/** Returns the command that continues an operation which the console cannot continue. */
function commandLine(found) {
  const notice = h("span", { role: "status", class: "quiet" });
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(found.command);
      notice.textContent = "Copied";
    } catch {
      document.getSelection().selectAllChildren(text);
      notice.textContent = "Selected: copy with the keyboard";
    }
  };
  const text = h("pre", { tabindex: 0, role: "region", "aria-label": "Command line" }, found.command);
  return [h("p", {}, "Continue this operation from a terminal; the command shows its plan and asks for confirmation."), text,
    h("p", {}, h("button", { type: "button", "data-key": "copy", on: { click: copy } }, "Copy"), " ", notice)];
}

const CONTINUE_TEXTS = {
  rewind: "The rewind is planned again, and the group's offsets are set back once the group has no members. Records read again are published again with the same event IDs; no credit moves twice.",
  "replay rebuild": "The rebuild continues from its last record, in this console's process, and compares the databases when everything is read.",
  "replay shadow": "The shadow run continues from its last record, in this console's process, and compares the databases when everything is read.",
};

/** Returns a section with a record's fields as facts, and nested fields as JSON. */
function recordSection(title, record) {
  const entries = Object.entries(record);
  const valueCell = (name, value) => {
    if (typeof value === "number") return number(value);
    if (value !== null && typeof value === "object") return h("pre", { tabindex: 0, role: "region", "aria-label": `${title}, ${words(name)}` }, JSON.stringify(value, null, 2));
    return value === null ? "none" : value === true ? "yes" : value === false ? "no" : String(value);
  };
  const isEmpty = (value) => value !== null && typeof value === "object" && !Object.keys(value).length;
  return section(title, entries.length ? facts(...entries.map(([name, value]) => [words(name), isEmpty(value) ? "none" : valueCell(name, value)])) : h("p", { class: "empty" }, "None."));
}

async function stopOperation(found, reload) {
  await confirm(`Stop operation ${found.operation}?`, "The operation ends between two messages, and can be continued later.", "Stop operation", () => post(`/api/operations/${found.operation}/stop`));
  reload();
}

async function continueOperation(found) {
  const started = await confirmWithReason(`Continue operation ${found.operation}?`, CONTINUE_TEXTS[found.verb] ?? `A new ${found.verb} does the remaining work and repeats nothing.`, "Continue", (because) => post(`/api/operations/${found.operation}/go-on`, { because }));
  if (started) location.hash = started.operation === null ? "#/operations" : `#/operations/${started.operation}`;
}
