// One dead letter: the original message, the reason, and the outcome.

import { redriveDeadLetters } from "../dialogs.js";
import { facts, h, link, section, status, table } from "../dom.js";
import { count, number, time, words } from "../format.js";
import { subscribe } from "../live.js";
import { startLoader } from "../loading.js";
import { historyNotice, outcomeStatus } from "./dead_letters.js";

export function showDeadLetter({ body, heading, path, signal }) {
  const [partition, offset] = path;
  heading.textContent = `Dead letter ${partition}/${offset}`;
  const reload = startLoader(body, signal, `/api/dead-letters/${partition}/${offset}`, {}, draw);
  let changes = null;
  signal.addEventListener("abort", subscribe((sample) => {
    if (changes !== null && changes !== sample.changes.operations) reload();
    changes = sample.changes.operations;
  }));
}

function draw(found) {
  return [
    h("p", { class: "actions" }, link("#/letters", "All dead letters"),
      h("button", { type: "button", class: "primary", "data-key": "redrive one", on: { click: () => redrive(found) } }, "Redrive this message …")),
    historyNotice(found),
    section("Reason", facts(
      ["Reason", [words(found.reason), h("span", { class: "error" }, found.error)]], ["Outcome", outcomeStatus(found)],
      ["Account", found.account_id === null ? null : link(`#/account?${new URLSearchParams({ id: found.account_id })}`, found.account_id)],
      ["Dead-lettered", time(found.set_aside_at)], ["Origin", `${found.origin_topic} ${found.origin_partition}/${found.origin_offset}`],
      ["Written", time(found.origin_time)], ["Type", found.event_type], ["Event", found.id])),
    section("Message", facts(["Key", found.key === null ? "none" : h("code", {}, found.key)], ["Size", found.bytes === null ? "none" : count(found.bytes, "byte")],
      ["Kept", found.cut ? "the beginning only" : "in full"]),
    found.value === null ? h("p", { class: "empty" }, "No value.") : h("pre", { tabindex: 0, role: "region", "aria-label": "Original message" }, formatJson(found.value)),
    table("Headers", [["Header", (header) => header.name], ["Value", (header) => header.value ?? "none", "wide"]], found.headers, { empty: "No headers." })),
    found.became?.redriven.length ? section("Redrives", table("Redrives", [
      ["Operation", (each) => link(`#/operations/${each.operation}`, number(each.operation))], ["By", (each) => each.actor],
      ["At", (each) => time(each.at)], ["To", (each) => `${each.topic} ${each.partition}/${each.offset ?? "in doubt"}`],
    ], found.became.redriven)) : null,
  ];
}

function formatJson(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}

async function redrive(found) {
  const started = await redriveDeadLetters({ partition: found.partition, offset: found.offset }, "This redrives the message of this dead letter.");
  if (started) location.hash = started.operation === null ? "#/operations" : `#/operations/${started.operation}`;
}
