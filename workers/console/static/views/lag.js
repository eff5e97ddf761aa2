// Lag: a row for each group of the cluster, and the partitions, with history, of one group or of ours.

import { get } from "../api.js";
import { sparkline } from "../chart.js";
import { facts, formatCode, h, link, section, show, status, table } from "../dom.js";
import { count, number, seconds, time } from "../format.js";
import { subscribe } from "../live.js";
import { loadingLine, showError } from "../loading.js";

export const groupPath = (name) => `#/lag?${new URLSearchParams({ group: name })}`;

/** Returns the time until the lag is zero at the current rate; a dash where it is unknown or never. */
export const timeToZero = (lag) => (lag.records === 0 ? "0 s" : seconds(lag.eta_seconds));

// By its status, not its kind: of data of before, every kind is unknown.
const isOk = (lag) => lag.status === "OK";

export const lagStatus = (lag) => status(lag.kind, lag.status);

export function showLag({ body, parameters, signal }) {
  const chosen = parameters.get("group");
  const problem = h("div", {});
  const content = h("div", {}, loadingLine());
  show(body, problem, content);
  let busy = false;

  async function load() {
    if (busy || document.hidden) return;
    busy = true;
    try {
      const found = await get("/api/lag", { group: chosen }, signal);
      if (found.error) showError(problem, new Error(found.error), null);
      else show(problem);
      if (found.at) show(content, groupsSection(found, chosen), chosenSections(found, chosen), statusesSection(found.statuses));
    } catch (error) {
      if (error.name !== "AbortError") showError(problem, error, load);
    } finally {
      busy = false;
    }
  }

  signal.addEventListener("abort", subscribe(load));
}

function groupsSection(found, chosen) {
  return section("Groups of the cluster", found.is_stale && h("p", { class: "quiet" }, "As of ", time(found.at), ": how the groups stand now is not known."),
    h("p", { class: "quiet" }, chosen ? link("#/lag", "Show the partitions of our groups") : "The partitions of our groups are below. Select a group to see its partitions."),
    table("Groups of the cluster", [
      ["Group", (group) => link(groupPath(group.group), group.group, group.group === chosen ? { "aria-current": "true" } : {})],
      ["Topic", (group) => group.topic || "–"],
      ["Status", lagStatus],
      ["Reason", reasonText, "text"],
      ["Unread", (group) => count(group.records, "record"), "number"],
      ["Oldest unread", (group) => seconds(group.seconds), "number"],
      ["Time to zero", timeToZero, "number"],
      ["Members", (group) => (group.members === null ? "unknown" : number(group.members)), "number"],
    ], found.groups, { empty: "No groups yet." }));
}

/** Returns a group's reason with the partition that has it. */
export function reasonText(group) {
  return isOk(group) || group.partition === null ? group.reason : `partition ${number(group.partition)}: ${group.reason}`;
}

function chosenSections(found, chosen) {
  if (!found.shown.length) return h("p", { class: "card empty" }, chosen ? `The cluster has no group ${chosen}.` : "None of our groups exists: has `inmail topics apply` been run?");
  return found.shown.map(groupSection);
}

function groupSection(found) {
  return section(found.topic ? `${found.group} on ${found.topic}` : found.group,
    facts(["Status", lagStatus(found)], ["Reason", reasonText(found)], ["What to do", isOk(found) ? null : formatCode(found.do)],
      ["Since", isOk(found) ? null : time(found.since)], ["Unread", count(found.records, "record")],
      ["Oldest unread", seconds(found.seconds)], ["Time to zero", timeToZero(found)],
      ["Hidden by an open transaction", found.held ? count(found.held, "record") : null]),
    table(`Lag of ${found.group} on ${found.topic}`, [
      ["Partition", (each) => number(each.partition)],
      ["Status", lagStatus],
      ["Unread, records", (each) => number(each.records), "number"],
      ["Oldest unread", (each) => seconds(each.seconds), "number"],
      ["Time to zero", timeToZero, "number"],
      ["Next offset", (each) => (each.committed === null ? "none" : number(each.committed)), "number"],
      ["End offset", (each) => number(each.end), "number"],
      ["History", (each) => historyChart(found, each)],
      ["Owner", (each) => each.owner ?? "none", "wide"],
      ["Note", (each) => [isOk(each) ? null : each.reason, each.note].filter(Boolean).join("; ") || "–", "text"],
    ], found.partitions, { key: (each) => each.partition, empty: "No partitions." }),
    changesDetails(found));
}

function historyChart(found, each) {
  const { seconds_ago, records } = each.history;
  const label = `Unread records of ${found.topic} ${each.partition} over ${seconds(seconds_ago[0] ?? 0)}: at most ${number(Math.max(...records, 0))}, now ${number(each.records)}`;
  return h("span", { class: "trend" }, sparkline(records, label, { width: 140, height: 24, at: seconds_ago.map((ago) => -ago) }), seconds_ago.length > 1 && h("span", { class: "quiet" }, `${seconds(seconds_ago[0])}, at most ${number(Math.max(...records))}`));
}

function changesDetails(found) {
  const rows = found.partitions.filter((each) => each.changes.length > 1).flatMap((each) => each.changes.map((change) => ({ ...change, partition: each.partition })))
    .sort((one, other) => Date.parse(other.at) - Date.parse(one.at)).slice(0, 20);
  if (!rows.length) return null;
  return h("details", { "data-key": `changes ${found.group} ${found.topic}` }, h("summary", {}, "Last changes"), table(`Last changes of ${found.group} on ${found.topic}`, [
    ["When", (row) => time(row.at)],
    ["Partition", (row) => number(row.partition)],
    ["Status", lagStatus],
    ["Reason at that time", (row) => row.reason, "text"],
  ], rows));
}

function statusesSection(statuses) {
  return section("Statuses", h("details", { "data-key": "statuses" }, h("summary", {}, "What each status means, and what to do"), table("Statuses", [
    ["Status", lagStatus], ["Meaning", (row) => row.means, "text"], ["What to do", (row) => formatCode(row.do), "text"],
  ], statuses)));
}
