// How it goes: flow, health by cause, what was decided, who is behind.

import { bar, sparkline } from "../chart.js";
import { coded, facts, h, link, section, show, status, table } from "../dom.js";
import { count, number, percent, rate, seconds, time, words } from "../format.js";
import { follow } from "../live.js";
import { failed, loading } from "../loading.js";
import { act, read } from "../api.js";
import { confirmPlainly } from "../dialogs.js";
import { groupPath, stands, toZero, why } from "./lag.js";

const LETTERS_EVERY_MS = 30000; // all of the topic is read to count them

export function overview({ body, signal }) {
  const summary = h("p", { class: "summary", role: "status" }, "");
  const live = h("div", {}, loading());
  const letters = h("div", {}, loading());
  show(body, summary, live, section("Dead letters", letters));
  let ended = null;
  let readAt = 0;

  async function count_(end) {
    if (end === ended || Date.now() - readAt < LETTERS_EVERY_MS) return;
    [ended, readAt] = [end, Date.now()];
    try {
      show(letters, deadLetters(await read("/api/dead-letters", { last: 1 }, signal)));
    } catch (error) {
      if (error.name !== "AbortError") show(letters, failed(error, null));
      ended = null;
    }
  }

  const end = follow((seen) => {
    if (!seen.at) return;
    const said = sentence(seen.health);
    if (summary.textContent !== said.text) {
      summary.textContent = said.text;
      summary.dataset.kind = said.kind;
    }
    show(live, worst(seen.lag.worst), flow(seen), h("div", { class: "columns" }, health(seen), outcomes(seen.outcomes)), groups(seen.lag));
    count_(seen.changes.dead_letters);
  });
  signal.addEventListener("abort", end);
}

function sentence(parts) {
  const bad = parts.filter((part) => part.status !== "ok");
  if (!bad.length) return { kind: "ok", text: "All parts work." };
  const failedParts = bad.filter((part) => part.status === "failed");
  return { kind: failedParts.length ? "failed" : "warning", text: `${bad.map((part) => `${part.name}: ${part.cause}`).join(" · ")}` };
}

/** What is furthest behind: why, since when, and what to do. Nothing where all is well. */
function worst(found) {
  if (!found) return null;
  return h("section", { class: `card worst ${found.kind}`, "aria-labelledby": "worst" },
    h("h2", { id: "worst" }, stands(found), " ", link(groupPath(found.group), found.group), h("span", { class: "quiet" }, ` on ${found.topic}`)),
    facts(["Why", why(found)], ["Since", time(found.since)], ["What to do", coded(found.do)],
      ["Unread", `${count(found.records, "record")}, the oldest ${seconds(found.seconds)} old`], ["To zero", found.eta_seconds === null ? null : toZero(found)],
      ["Owner", found.owner]));
}

function flow(seen) {
  const { now, history } = seen.flow;
  const tile = (name, value, hint, values) => h("div", { class: "tile" },
    h("p", { class: "name" }, name), h("p", { class: "figure" }, value), h("p", { class: "quiet" }, hint),
    values && sparkline(values, `${name}, records a second, the last ${values.length} looks; now ${value}`, { width: 240, height: 36 }));
  const place = seen.oldest;
  return h("section", { "aria-label": "Flow", class: "tiles" },
    tile("Flow in", rate(now?.came_in), "written to the input topics", history.map((each) => each.came_in)),
    tile("Decided", rate(now?.decided), "outcomes stored in the books", history.map((each) => each.decided)),
    tile("Answered", rate(now?.answered), "answers published", history.map((each) => each.answered)),
    h("div", { class: "tile" }, h("p", { class: "name" }, "Oldest unread"),
      h("p", { class: "figure" }, place ? seconds(place.seconds) : "none"),
      h("p", { class: "quiet" }, place ? `${place.topic} / ${place.partition}` : "every record is read"),
      place && h("p", {}, link("#/lag", "Lag by partition"))));
}

const NAMES = { ok: "OK", warning: "Warning", failed: "Failed", unknown: "Unknown" };

function health(seen) {
  return section("Health", table("Health by part", [
    ["Part", (part) => part.name],
    ["State", (part) => status(part.status, part.status === "ok" ? words(part.cause) : `${NAMES[part.status]}: ${part.cause}`)],
    ["Why, and what to do", (part) => [part.text, part.do && h("span", { class: "do" }, "→ ", coded(part.do)), processButtons(part)], "text"],
    ["Since", (part) => time(part.since), "narrow"],
  ], seen.health, { empty: "Nothing was seen yet." }), h("p", { class: "quiet" }, "Since: as this console first saw it so."));
}

// What can be done with a worker that runs beside the console, and what that means.
const ACTIONS = {
  stop: ["Stop", "It finishes what it holds. What comes afterwards waits until the worker is started."],
  start: ["Start", "It goes on where it stopped."],
  restart: ["Restart", "It finishes what it holds, and is started again."],
  "let-through": ["Start, let all through", "All that cannot be decided becomes dead letters, however many, until the worker is started again."],
};

function processButtons(part) {
  if (!part.actions?.length) return null;
  const name = part.name.replace(/ worker$/, "");
  return h("span", { class: "buttons" }, part.actions.map((action) => {
    const [text, means] = ACTIONS[action];
    const ask = () => confirmPlainly(`${text}: ${part.name}?`, means, text, () => act(`/api/workers/${name}/${action}`));
    return h("button", { type: "button", "data-key": `${action} ${name}`, "aria-label": `${text}: ${part.name}`, on: { click: ask } }, text);
  }));
}

function outcomes({ rows, records }) {
  const total = rows.reduce((sum, row) => sum + row.count, 0);
  const body = table("Outcomes by code", [
    ["Outcome", (row) => h("code", {}, row.code)],
    ["Worker", (row) => row.worker],
    ["Answer", (row) => (row.accepted ? status("ok", "accepted") : status("unknown", "rejected"))],
    ["Records", (row) => number(row.count), "number"],
    ["Share", (row) => h("span", { class: "share" }, bar(row.count / total), ` ${percent(row.count / total)}`), "number"],
  ], [...rows].sort((one, other) => other.count - one.count), { empty: "Nothing was decided yet." });
  return section("Outcomes", h("p", { class: "quiet" }, total
    ? `Answers to the last ${number(records)} records of each lane: ${count(total, "answer")}.`
    : ""), body);
}

function groups(lag) {
  const rest = lag.others - lag.others_bad;
  return section("Lag by group", table("Lag by group", [
    ["Group", (group) => link(groupPath(group.group), group.group)],
    ["Topic", (group) => group.topic],
    ["Status", stands],
    ["Why", why, "text"],
    ["Unread", (group) => count(group.records, "record"), "number"],
    ["Oldest unread", (group) => seconds(group.seconds), "number"],
    ["To zero", toZero, "number"],
  ], lag.groups, { empty: "No group was seen yet." }),
  lag.others > 0 && h("p", { class: "quiet" }, `The cluster has ${count(lag.others, "other group")}; ${rest === lag.others ? "all are" : `${number(rest)} of them ${rest === 1 ? "is" : "are"}`} OK. `, link("#/lag", "All groups")));
}

function deadLetters(found) {
  if (!found.total) return h("p", { class: "empty" }, "None: every message could be decided.");
  return [table("Dead letters by topic and reason", [
    ["Reason", (row) => link(`#/letters?${new URLSearchParams({ topic: row.topic, reason: row.reason })}`, words(row.reason))],
    ["Topic", (row) => row.topic],
    ["Letters", (row) => number(row.letters), "number"],
  ], found.counts)];
}
