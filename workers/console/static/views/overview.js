// Overview: the worst group, flow, health, outcomes, lag by group, and dead letters.

import { bar, sparkline } from "../chart.js";
import { facts, formatCode, h, link, section, show, status, table } from "../dom.js";
import { count, number, percent, rate, seconds, time, words } from "../format.js";
import { onStale, subscribe } from "../live.js";
import { loadingLine, showError } from "../loading.js";
import { get, post } from "../api.js";
import { confirm } from "../dialogs.js";
import { trendsSection } from "./trends.js";
import { groupPath, lagStatus, reasonText, timeToZero } from "./lag.js";

const OLD_SECONDS = 15; // a rate that is older says how old: between two samples are 2 s, or 10 s where a server is slow
const MIN_COUNT_INTERVAL_MS = 30000; // counting dead letters reads the whole topic

export function showOverview({ body, signal }) {
  const summary = h("p", { class: "summary", role: "status" });
  const detail = h("div", {});
  const card = h("div", { class: "card headline" }, summary, detail);
  const flow = h("div", {}, loadingLine());
  const live = h("div", {});
  const letters = h("div", {}, loadingLine());
  show(body, card, flow, trendsSection(signal), live, section("Dead letters", letters));
  let countedEnd = null;
  let countedAt = 0;

  async function countDeadLetters(end) {
    if (end === countedEnd || Date.now() - countedAt < MIN_COUNT_INTERVAL_MS) return;
    [countedEnd, countedAt] = [end, Date.now()];
    try {
      const isShown = show(letters, deadLettersTable(await get("/api/dead-letters/counts", {}, signal)));
      if (!isShown) countedEnd = null; // text in the table is selected: counted again, and shown, later
    } catch (error) {
      if (error.name !== "AbortError") showError(letters, error, null);
      countedEnd = null;
    }
  }

  function showHeadline({ kind, title, text, do: advice, since, also }) {
    if (summary.textContent !== title) summary.textContent = title;
    card.dataset.kind = kind;
    show(detail, text && h("p", {}, text), advice && h("p", { class: "do" }, "→ ", formatCode(advice)),
      since && h("p", { class: "quiet" }, "Since ", time(since)), also.length > 0 && h("p", { class: "quiet" }, `Also: ${also.join(" · ")}`));
  }

  const unsubscribe = subscribe((sample) => {
    if (!sample.at) return;
    showHeadline(sample.headline);
    show(flow, worstGroupCard(sample.lag.worst), flowTiles(sample));
    show(live, h("div", { class: "columns" }, healthSection(sample), outcomesSection(sample.outcomes, sample.troubles.postgres)), groupsSection(sample.lag, sample.troubles.kafka));
    countDeadLetters(sample.changes.dead_letters);
  });
  const unwatch = onStale((text) => {
    if (text) showHeadline({ kind: "lost", title: text, text: "What is below is old: the system may stand differently now.", do: "see whether the console runs and can be reached; the page connects again by itself", since: null, also: [] });
  });
  signal.addEventListener("abort", () => { unsubscribe(); unwatch(); });
}

/** Returns a card with the group that has the most severe status; null where every group is OK. */
function worstGroupCard(found) {
  if (!found) return null;
  return h("section", { class: `card worst ${found.kind}`, "aria-labelledby": "worst" },
    h("h2", { id: "worst" }, lagStatus(found), " ", link(groupPath(found.group), found.group), h("span", { class: "quiet" }, ` on ${found.topic}`)),
    facts(["Reason", reasonText(found)], ["Since", time(found.since)], ["What to do", formatCode(found.do)],
      ["Unread", `${count(found.records, "record")}, the oldest ${seconds(found.seconds)} old`], ["Time to zero", found.eta_seconds === null ? null : timeToZero(found)],
      ["Owner", found.owner]));
}

function flowTiles(sample) {
  const { now, history } = sample.flow;
  const at = history.map((each) => Date.parse(each.at) / 1000);
  const age = now ? (Date.parse(sample.at) - Date.parse(now.at)) / 1000 : 0;
  const isOld = age > OLD_SECONDS;
  const tile = (name, field, what, format = rate, value = format(now?.[field])) => {
    const values = history.map((each) => each[field]);
    const past = values.length > 1 && `last ${seconds(at.at(-1) - at[0])}, at most ${format(Math.max(...values))}`;
    return h("div", { class: isOld ? "tile old" : "tile" }, h("p", { class: "name" }, name), h("p", { class: "figure" }, value),
      h("p", { class: "quiet" }, what, isOld && `, ${seconds(age)} ago`),
      sparkline(values, `${name}: ${past}, now ${value}`, { at }), past && h("p", { class: "quiet" }, past));
  };
  const oldest = sample.oldest;
  return h("section", { "aria-label": "Flow", class: "tiles" },
    tile("Flow in", "came_in", "written to the input topics"),
    tile("Decided", "decided", "outcomes stored in the database"),
    tile("Answered", "answered", "answers published"),
    tile("Oldest unread", "oldest_seconds", oldest ? link("#/lag", `${oldest.topic} / ${oldest.partition}`) : "no unread records", seconds, oldest ? seconds(oldest.seconds) : "none"));
}

const STATUS_NAMES = { ok: "OK", warning: "Warning", failed: "Failed", unknown: "Unknown" };

function healthSection(sample) {
  return section("Health", table("Health by component", [
    ["Component", (part) => part.name],
    ["Status", (part) => status(part.status, part.status === "ok" ? words(part.cause) : `${STATUS_NAMES[part.status]}: ${part.cause}`)],
    ["Reason and what to do", (part) => [part.text, part.do && h("span", { class: "do" }, "→ ", formatCode(part.do)), processButtons(part)], "text"],
    ["Since", (part) => time(part.since), "narrow"],
  ], sample.health, { empty: "No data yet." }), h("p", { class: "quiet" }, "Since: when this console first saw the status."));
}

// What can be done with a worker that runs beside the console, and what that means.
const ACTIONS = {
  stop: ["Stop", "It finishes what it holds. What comes afterwards waits until the worker is started."],
  start: ["Start", "It goes on where it stopped."],
  restart: ["Restart", "It finishes what it holds, and is started again."],
  "let-through": ["Start, let all through", "All that cannot be decided becomes dead letters, however many, until the worker is started again."],
};

// What a stop means where others take over.
const STOPS = [
  [/ process$/, "It finishes what it holds. Other members of the worker that run take its partitions."],
  [/^broker-/, "It hands its partitions over to the other brokers."],
];

function processButtons(part) {
  if (!part.actions?.length) return null;
  const name = part.name.replace(/ (worker|process)$/, "");
  return h("span", { class: "buttons" }, part.actions.map((action) => {
    const [text, usual] = ACTIONS[action];
    const means = action === "stop" ? STOPS.find(([names]) => names.test(part.name))?.[1] ?? usual : usual;
    const ask = () => confirm(`${text}: ${part.name}?`, means, text, () => post(`/api/workers/${name}/${action}`));
    return h("button", { type: "button", "data-key": `${action} ${name}`, "aria-label": `${text}: ${part.name}`, on: { click: ask } }, text);
  }));
}

function outcomesSection({ rows, records, at }, trouble) {
  const total = rows.reduce((sum, row) => sum + row.count, 0);
  const body = table("Outcomes by code", [
    ["Outcome", (row) => h("code", {}, row.code)],
    ["Worker", (row) => row.worker],
    ["Answer", (row) => (row.accepted ? status("ok", "accepted") : status("unknown", "rejected"))],
    ["Records", (row) => number(row.count), "number"],
    ["Share", (row) => h("span", { class: "share" }, bar(row.count / total), h("span", { class: "value" }, percent(row.count / total))), "number"],
  ], [...rows].sort((one, other) => other.count - one.count), { empty: "No outcomes yet." });
  return section("Outcomes", h("p", { class: "quiet" }, total
    ? `Answers to the last ${number(records)} records of each lane: ${count(total, "answer")}.`
    : "", trouble && at && [" As of ", time(at), `: ${trouble.title}.`]), trouble ? h("div", { class: "old" }, body) : body);
}

function groupsSection(lag, trouble) {
  const rest = lag.others - lag.others_bad;
  return section("Lag by group", table("Lag by group", [
    ["Group", (group) => link(groupPath(group.group), group.group)],
    ["Topic", (group) => group.topic],
    ["Status", lagStatus],
    ["Reason", reasonText, "text"],
    ["Unread", (group) => count(group.records, "record"), "number"],
    ["Oldest unread", (group) => seconds(group.seconds), "number"],
    ["Time to zero", timeToZero, "number"],
  ], lag.groups, { empty: "No groups yet." }),
  trouble && lag.at && h("p", { class: "quiet" }, "As of ", time(lag.at), `: ${trouble.title}.`),
  lag.others > 0 && h("p", { class: "quiet" }, `The cluster has ${count(lag.others, "other group")}; ${rest === lag.others ? "all are" : `${number(rest)} of them ${rest === 1 ? "is" : "are"}`} OK. `, link("#/lag", "All groups")));
}

function deadLettersTable(found) {
  if (!found.counts.length) return h("p", { class: "empty" }, found.counted_to ? ["No dead letters since ", time(found.counted_to), "; older ones were not counted."] : "No dead letters.");
  return [found.counted_to && h("p", { class: "quiet" }, "The newest, back to ", time(found.counted_to)), table("Dead letters by topic and reason", [
    ["Reason", (row) => link(`#/letters?${new URLSearchParams({ topic: row.topic, reason: row.reason })}`, words(row.reason))],
    ["Topic", (row) => row.topic],
    ["Dead letters", (row) => number(row.letters), "number"],
  ], found.counts)];
}
