// Topics: what they hold, planned changes, and settings that conflict with the delivery guarantees.

import { h, link, section, status, table } from "../dom.js";
import { bytes, count, number, rate, seconds } from "../format.js";
import { reloadEvery, startLoader } from "../loading.js";

/** Returns the sum of a fact of all partitions; null where it is unknown of one. */
export const sumOf = (topic, fact) => (topic.partitions.some((each) => each[fact] === null) ? null : topic.partitions.reduce((sum, each) => sum + each[fact], 0));

/** Returns how many offsets a topic has from the oldest record to its end; null where that is unknown. */
export const heldOf = (topic) => (sumOf(topic, "end") === null || sumOf(topic, "oldest") === null ? null : sumOf(topic, "end") - sumOf(topic, "oldest"));

export const perSecond = (records, span) => (records === null ? "–" : rate(records / span, "/s"));

export const retention = (config) => (config["retention.ms"] === undefined ? "–" : config["retention.ms"] === "-1" ? "for good" : seconds(Number(config["retention.ms"]) / 1000));

function topicsSection(topics) {
  return section("Topics", table("Topics", [
    ["Topic", (topic) => link(`#/topics/${topic.topic}`, topic.topic)],
    ["Direction", (topic) => (topic.is_input ? "to the workers" : "from the workers")],
    ["Partitions", partitionsCell, "number"],
    ["Offsets held", (topic) => number(heldOf(topic)), "number"],
    ["Size", (topic) => bytes(sumOf(topic, "bytes")), "number"],
    ["Last minute", (topic) => perSecond(sumOf(topic, "last_minute"), 60), "number"],
    ["Last hour", (topic) => perSecond(sumOf(topic, "last_hour"), 3600), "number"],
    ["Kept", (topic) => retention(topic.config), "number"],
  ], topics, { empty: "No topic of the ledger exists." }), h("p", { class: "quiet" }, "Offsets count the markers of transactions too. Sizes are the leaders'; a dash: this user may not ask for them."));
}

function partitionsCell(topic) {
  const behind = topic.partitions.filter((each) => each.leader === null || each.in_sync < each.replicas).length;
  return behind ? status("failed", `${number(topic.partitions.length)}, ${number(behind)} not in sync`) : number(topic.partitions.length);
}

export function showTopics({ body, signal }) {
  const reload = startLoader(body, signal, "/api/topics", {}, (found) => [
    topicsSection(found.topics),
    section("Plan", found.refused && h("p", {}, status("failed", "no plan possible"), ` ${found.refused}`),
      !found.refused && !found.changes.length && h("p", {}, status("ok", "up to date"), ` ${count(found.wanted.partitions, "partition")} per topic, ${count(found.wanted.replicas, "replica")}.`),
      found.changes.length > 0 && [table("Changes that inmail topics apply would make", [
        ["Topic", (change) => change.topic],
        ["Step", (change) => change.kind],
        ["Change", (change) => change.text, "wide"],
      ], found.changes), h("p", {}, "To apply the plan: ", h("code", {}, "inmail topics apply"))]),
    section("Delivery guarantees", table("Settings that conflict with a delivery guarantee", [
      ["Topic", (each) => each.topic],
      ["Setting", (each) => h("code", {}, each.setting)],
      ["Value", (each) => each.found],
      ["Guarantee", (each) => each.promise, "wide"],
      ["What to do", (each) => each.remedy, "wide"],
    ], found.broken_promises, { empty: "No topic setting conflicts with the delivery guarantees." })),
  ]);
  reloadEvery(15, signal, reload);
}
