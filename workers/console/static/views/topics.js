// Topics: what differs from how they should be, and which settings break a promise.

import { facts, h, section, status, table } from "../dom.js";
import { count, number } from "../format.js";
import { loader } from "../loading.js";

export function topics({ body, signal }) {
  loader(body, signal, "/api/topics", {}, (found) => [
    section("Plan", found.refused && h("p", {}, status("failed", "cannot be planned"), ` ${found.refused}`),
      !found.refused && !found.changes.length && h("p", {}, status("ok", "as they should be"), ` ${count(found.wanted.partitions, "partition")} of each topic, ${count(found.wanted.replicas, "replica")}.`),
      found.changes.length > 0 && [table("What inmail topics apply would do", [
        ["Topic", (change) => change.topic],
        ["Step", (change) => change.kind],
        ["What", (change) => change.text, "wide"],
      ], found.changes), h("p", {}, "To do it: ", h("code", {}, "inmail topics apply"))]),
    section("Promises", table("Settings that break a promise", [
      ["Topic", (each) => each.topic],
      ["Setting", (each) => h("code", {}, each.setting)],
      ["Found", (each) => each.found],
      ["Promise", (each) => each.promise, "wide"],
      ["What to do", (each) => each.remedy, "wide"],
    ], found.broken_promises, { empty: "No topic setting conflicts with the delivery guarantees." })),
  ]);
}
