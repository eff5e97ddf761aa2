// One topic: its settings, its partitions, and a look at its records.

import { facts, h, link, openOnSubmit, section, show, status, table } from "../dom.js";
import { bytes, count, number, time } from "../format.js";
import { startLoader } from "../loading.js";
import { heldOf, perSecond, retention, sumOf } from "./topics.js";

export function showTopic({ body, heading, parameters, path, signal }) {
  const [name] = path;
  const chosen = { partition: parameters.get("partition") ?? "", offset: parameters.get("offset") ?? "" };
  heading.textContent = name;
  const topic = h("div", {});
  const records = h("div", {});
  show(body, h("p", {}, link("#/topics", "All topics")), topic, searchForm(name, chosen), records);
  startLoader(topic, signal, "/api/topics", {}, (found) => {
    const facts_ = found.topics.find((each) => each.topic === name);
    return facts_ === undefined ? h("p", { class: "card empty" }, `The cluster has no topic ${name}, or it is none of the ledger's.`) : [factsSection(facts_), partitionsSection(facts_)];
  });
  startLoader(records, signal, `/api/topics/${name}/records`, chosen, (found) => recordsSection(found, chosen));
}

function factsSection(topic) {
  return section("Topic", facts(
    ["Direction", topic.is_input ? "to the workers" : "from the workers"], ["Offsets held", number(heldOf(topic))], ["Size", bytes(sumOf(topic, "bytes"))],
    ["Last minute", perSecond(sumOf(topic, "last_minute"), 60)], ["Last hour", perSecond(sumOf(topic, "last_hour"), 3600)], ["Kept", retention(topic.config)]),
  h("details", { "data-key": "settings" }, h("summary", {}, "Settings"), table("Settings", [
    ["Setting", ([name]) => h("code", {}, name)],
    ["Value", ([, value]) => value],
    ["Set for", ([name]) => (topic.own.includes(name) ? "this topic" : "the cluster, or by default")],
  ], Object.entries(topic.config))));
}

function partitionsSection(topic) {
  return section("Partitions", table("Partitions", [
    ["Partition", (each) => link(`#/topics/${topic.topic}?partition=${each.partition}`, number(each.partition))],
    ["Leader", (each) => (each.leader === null ? status("failed", "none") : `broker ${each.leader}`)],
    ["In sync", (each) => (each.in_sync < each.replicas ? status("failed", `${each.in_sync} of ${each.replicas}`) : `${each.in_sync} of ${count(each.replicas, "replica")}`)],
    ["Oldest offset", (each) => number(each.oldest), "number"],
    ["End offset", (each) => number(each.end), "number"],
    ["Size", (each) => bytes(each.bytes), "number"],
    ["Last minute", (each) => perSecond(each.last_minute, 60), "number"],
    ["Last hour", (each) => perSecond(each.last_hour, 3600), "number"],
  ], topic.partitions));
}

function searchForm(name, chosen) {
  const input = (field, label) => h("div", { class: "field" }, h("label", { for: `r-${field}` }, label), h("input", { id: `r-${field}`, name: field, type: "number", min: 0, value: chosen[field], ...(field === "offset" ? {} : { required: true }) }));
  return openOnSubmit(`topics/${name}`, h("form", { class: "search card", role: "search", "aria-label": "Records to show" }, input("partition", "Partition"), input("offset", "From offset (default: the newest)"),
    h("div", { class: "buttons" }, h("button", { type: "submit", class: "primary" }, "Show records"), h("a", { class: "button", href: `#/topics/${name}` }, "Newest of all"))));
}

function recordsSection(found, chosen) {
  const which = chosen.offset ? `From offset ${chosen.offset} of partition ${chosen.partition} on` : `The newest, newest first${chosen.partition ? `, of partition ${chosen.partition}` : ""}`;
  return section("Records", h("p", { class: "quiet" }, `${which}: ${count(found.records.length, "record")}, as a reader of committed records sees them.`),
    table("Records", [
      ["Place", (record) => `${record.partition}/${record.offset}`],
      ["Time", (record) => time(record.at)],
      ["Key", (record) => (record.key === null ? "none" : accountLink(record.key)), "cut"],
      ["Type", (record) => record.type ?? "–", "type"],
      ["Event", (record) => (record.id === null ? "–" : link(eventPath(found.topic, record), record.id, { class: "id" }))],
      ["Value", valueCell, "wide"],
    ], found.records, { empty: "No records.", key: (record) => `${record.partition}/${record.offset}` }));
}

/** Returns where an event is shown: a dead letter in its own view, any other as a trace. */
function eventPath(topic, record) {
  if (topic === "inmail.dead-letters") return `#/letters/${record.partition}/${record.offset}`;
  return `#/request?${new URLSearchParams({ id: record.id, ...(record.subject ? { account: record.subject } : {}) })}`;
}

const accountLink = (key) => link(`#/account?${new URLSearchParams({ id: key })}`, key);

function valueCell(record) {
  if (record.value === null) return "none";
  const headers = record.headers.map((header) => `${header.name}: ${header.value ?? "none"}`).join("\n");
  return h("details", { "data-key": `value ${record.partition}/${record.offset}` }, h("summary", {}, bytes(record.bytes)),
    h("pre", { tabindex: 0, role: "region", "aria-label": `Value of ${record.partition}/${record.offset}` }, `${headers ? `${headers}\n\n` : ""}${formatJson(record.value)}`));
}

function formatJson(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}
