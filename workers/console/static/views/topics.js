// Topics: planned changes, and settings that conflict with the delivery guarantees.

import { facts, h, section, status, table } from "../dom.js";
import { count, number } from "../format.js";
import { startLoader } from "../loading.js";

export function showTopics({ body, signal }) {
  startLoader(body, signal, "/api/topics", {}, (found) => [
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
}
