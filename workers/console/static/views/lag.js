// Lag by group and partition, and how it went.

import { read } from "../api.js";
import { sparkline } from "../chart.js";
import { facts, h, section, show, table } from "../dom.js";
import { count, number, seconds } from "../format.js";
import { follow } from "../live.js";
import { failed, loading } from "../loading.js";

export function lag({ body, signal }) {
  const problem = h("div", {});
  const content = h("div", {}, loading());
  show(body, problem, content);
  let busy = false;

  async function load() {
    if (busy || document.hidden) return;
    busy = true;
    try {
      const found = await read("/api/lag", {}, signal);
      show(problem, found.error ? failed(new Error(found.error), null) : null);
      if (found.at) show(content, found.groups.map(group));
    } catch (error) {
      if (error.name !== "AbortError") show(problem, failed(error, load));
    } finally {
      busy = false;
    }
  }

  const end = follow(load);
  signal.addEventListener("abort", end);
}

function group(found) {
  const members = found.members === null ? "not known" : found.members.length ? [...new Set(found.members)].join(", ") : "nobody";
  return section(found.group,
    facts(["Topic", found.topic], ["Unread", count(found.records, "record")], ["Oldest unread", seconds(found.seconds)],
      ["Members", members], ["Held back by an open transaction", found.held ? count(found.held, "record") : null]),
    table(`Lag of ${found.group}`, [
      ["Partition", (each) => number(each.partition)],
      ["Unread, records", (each) => number(each.records), "number"],
      ["Oldest unread", (each) => seconds(each.seconds), "number"],
      ["Next to read", (each) => (each.committed === null ? "never" : number(each.committed)), "number"],
      ["End", (each) => number(each.end), "number"],
      ["Unread so far", (each) => trend(found, each)],
      ["Note", (each) => each.note || "–"],
    ], found.partitions, { key: (each) => each.partition }));
}

function trend(found, each) {
  const { since, records } = each.history;
  const age = since ? (Date.now() - Date.parse(since)) / 1000 : 0;
  const what = `Unread records of ${found.topic} ${each.partition} over ${seconds(age)}: at most ${number(Math.max(...records, 0))}, now ${number(each.records)}`;
  return sparkline(records, what, { width: 140, height: 24 });
}
