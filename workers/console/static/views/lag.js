// Lag: every group of the cluster in a line, the partitions of one or of ours, and how it went.

import { read } from "../api.js";
import { sparkline } from "../chart.js";
import { coded, facts, h, link, section, show, status, table } from "../dom.js";
import { count, number, seconds, time } from "../format.js";
import { follow } from "../live.js";
import { failed, loading } from "../loading.js";

export const groupPath = (name) => `#/lag?${new URLSearchParams({ group: name })}`;

/** Time until all is read at the pace of now; what is not known or never comes is a dash. */
export const toZero = (each) => (each.records === 0 ? "0 s" : seconds(each.eta_seconds));

export const stands = (each) => status(each.kind, each.status);

export function lag({ body, parameters, signal }) {
  const chosen = parameters.get("group");
  const problem = h("div", {});
  const content = h("div", {}, loading());
  show(body, problem, content);
  let busy = false;

  async function load() {
    if (busy || document.hidden) return;
    busy = true;
    try {
      const found = await read("/api/lag", { group: chosen }, signal);
      show(problem, found.error ? failed(new Error(found.error), null) : null);
      if (found.at) show(content, groups(found, chosen), shown(found, chosen), meanings(found.statuses));
    } catch (error) {
      if (error.name !== "AbortError") show(problem, failed(error, load));
    } finally {
      busy = false;
    }
  }

  const end = follow(load);
  signal.addEventListener("abort", end);
}

function groups(found, chosen) {
  return section("Groups of the cluster",
    h("p", { class: "quiet" }, chosen ? link("#/lag", "Show the partitions of our groups") : "Below are the partitions of our groups; follow a name for those of another."),
    table("Groups of the cluster", [
      ["Group", (group) => link(groupPath(group.group), group.group, group.group === chosen ? { "aria-current": "true" } : {})],
      ["Topic", (group) => group.topic || "–"],
      ["Status", stands],
      ["Why", why, "text"],
      ["Unread", (group) => count(group.records, "record"), "number"],
      ["Oldest unread", (group) => seconds(group.seconds), "number"],
      ["To zero", toZero, "number"],
      ["Members", (group) => (group.members === null ? "not told" : number(group.members)), "number"],
    ], found.groups, { empty: "No group was seen yet." }));
}

/** The reason, with the partition that it is true of. */
export function why(group) {
  return group.kind === "ok" || group.partition === null ? group.reason : `partition ${number(group.partition)}: ${group.reason}`;
}

function shown(found, chosen) {
  if (!found.shown.length) return h("p", { class: "card empty" }, chosen ? `The cluster has no group ${chosen}.` : "None of our groups was seen: has `inmail topics apply` been run?");
  return found.shown.map(group);
}

function group(found) {
  return section(found.topic ? `${found.group} on ${found.topic}` : found.group,
    facts(["Status", stands(found)], ["Why", why(found)], ["What to do", found.kind === "ok" ? null : coded(found.do)],
      ["Since", found.kind === "ok" ? null : time(found.since)], ["Unread", count(found.records, "record")],
      ["Oldest unread", seconds(found.seconds)], ["To zero", toZero(found)],
      ["Held back by an open transaction", found.held ? count(found.held, "record") : null]),
    table(`Lag of ${found.group} on ${found.topic}`, [
      ["Partition", (each) => number(each.partition)],
      ["Status", stands],
      ["Unread, records", (each) => number(each.records), "number"],
      ["Oldest unread", (each) => seconds(each.seconds), "number"],
      ["To zero", toZero, "number"],
      ["Next to read", (each) => (each.committed === null ? "never" : number(each.committed)), "number"],
      ["End", (each) => number(each.end), "number"],
      ["Unread so far", (each) => trend(found, each)],
      ["Owner", (each) => each.owner ?? "nobody", "wide"],
      ["Note", (each) => [each.kind === "ok" ? null : each.reason, each.note].filter(Boolean).join("; ") || "–", "text"],
    ], found.partitions, { key: (each) => each.partition, empty: "It has read nothing." }),
    changes(found));
}

function trend(found, each) {
  const { seconds_ago, records } = each.history;
  const what = `Unread records of ${found.topic} ${each.partition} over ${seconds(seconds_ago[0] ?? 0)}: at most ${number(Math.max(...records, 0))}, now ${number(each.records)}`;
  return h("span", { class: "trend" }, sparkline(records, what, { width: 140, height: 24, at: seconds_ago.map((ago) => -ago) }), seconds_ago.length > 1 && h("span", { class: "quiet" }, `${seconds(seconds_ago[0])}, at most ${number(Math.max(...records))}`));
}

function changes(found) {
  const rows = found.partitions.filter((each) => each.changes.length > 1).flatMap((each) => each.changes.map((change) => ({ ...change, partition: each.partition })))
    .sort((one, other) => Date.parse(other.at) - Date.parse(one.at)).slice(0, 20);
  if (!rows.length) return null;
  return h("details", { "data-key": `changes ${found.group} ${found.topic}` }, h("summary", {}, "Last changes"), table(`Last changes of ${found.group} on ${found.topic}`, [
    ["When", (row) => time(row.at)],
    ["Partition", (row) => number(row.partition)],
    ["Status", stands],
    ["Why, as it began", (row) => row.reason, "text"],
  ], rows));
}

function meanings(statuses) {
  return section("What a status means", h("details", { "data-key": "statuses" }, h("summary", {}, "Each status, and what to do"), table("Statuses", [
    ["Status", stands], ["It means", (row) => row.means, "text"], ["What to do", (row) => coded(row.do), "text"],
  ], statuses)));
}
