// One dead letter: the message as it was read, why it was set aside, and what became of it.

import { askToRedrive } from "../dialogs.js";
import { facts, h, link, section, status, table } from "../dom.js";
import { count, number, time, words } from "../format.js";
import { follow } from "../live.js";
import { loader } from "../loading.js";
import { became } from "./letters.js";

export function letter({ body, heading, path, signal }) {
  const [partition, offset] = path;
  heading.textContent = `Dead letter ${partition}/${offset}`;
  const again = loader(body, signal, `/api/dead-letters/${partition}/${offset}`, {}, draw);
  let changes = null;
  signal.addEventListener("abort", follow((seen) => {
    if (changes !== null && changes !== seen.changes.operations) again();
    changes = seen.changes.operations;
  }));
}

function draw(found) {
  return [
    h("p", { class: "actions" }, link("#/letters", "All dead letters"),
      h("button", { type: "button", class: "primary", "data-key": "redrive one", on: { click: () => back(found) } }, "Send this message back …")),
    section("Why", facts(
      ["Reason", words(found.reason)], ["Error", found.error], ["Became", became(found)],
      ["Account", found.account_id === null ? null : link(`#/account?${new URLSearchParams({ id: found.account_id })}`, found.account_id)],
      ["Set aside", time(found.set_aside_at)], ["Came from", `${found.origin_topic} ${found.origin_partition}/${found.origin_offset}`],
      ["Written", time(found.origin_time)], ["Type", found.event_type], ["Event", found.id])),
    section("Message", facts(["Key", found.key === null ? "none" : h("code", {}, found.key)], ["Size", found.bytes === null ? "none" : count(found.bytes, "byte")],
      ["Kept", found.cut ? "only its beginning" : "whole"]),
    found.value === null ? h("p", { class: "empty" }, "It has no value.") : h("pre", { tabindex: 0, role: "region", "aria-label": "The message as it was read" }, pretty(found.value)),
    table("Headers", [["Header", (header) => header.name], ["Value", (header) => header.value ?? "none", "wide"]], found.headers, { empty: "No headers." })),
    found.became?.redriven.length ? section("Sent back", table("Sent back", [
      ["Operation", (each) => link(`#/operations/${each.operation}`, number(each.operation))], ["By", (each) => each.actor],
      ["At", (each) => time(each.at)], ["To", (each) => `${each.topic} ${each.partition}/${each.offset ?? "in doubt"}`],
    ], found.became.redriven)) : null,
  ];
}

function pretty(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}

async function back(found) {
  const begun = await askToRedrive({ partition: found.partition, offset: found.offset }, "The message of this dead letter would be sent back.");
  if (begun) location.hash = begun.operation === null ? "#/operations" : `#/operations/${begun.operation}`;
}
