// Dead letters: those that are asked for, and sending them back.

import { askToRedrive } from "../dialogs.js";
import { h, leadsTo, link, section, show, status, table } from "../dom.js";
import { count, number, time, words } from "../format.js";
import { follow } from "../live.js";
import { loader } from "../loading.js";

const ASKED = ["topic", "reason", "account", "event_type", "after", "before"];

export function letters({ body, parameters, signal }) {
  const asked = Object.fromEntries(ASKED.map((name) => [name, parameters.get(name) ?? ""]));
  const found = h("div", {});
  const filter = h("div", {});
  show(body, filter, found);
  let choices = false;
  const again = loader(found, signal, "/api/dead-letters", asked, (told) => {
    if (!choices) show(filter, form(asked, told));
    choices = true;
    return draw(told, asked);
  });
  let end = null;
  signal.addEventListener("abort", follow((seen) => {
    if (end !== null && end !== seen.changes.dead_letters + seen.changes.operations) again();
    end = seen.changes.dead_letters + seen.changes.operations;
  }));
}

function form(asked, told) {
  const choice = (name, label, values) => h("div", { class: "field" }, h("label", { for: `f-${name}` }, label),
    h("select", { id: `f-${name}`, name }, h("option", { value: "" }, "any"), values.map((value) => h("option", { value, selected: value === asked[name] }, words(value)))));
  const input = (name, label, type, more = {}) => h("div", { class: "field" }, h("label", { for: `f-${name}` }, label),
    h("input", { id: `f-${name}`, name, type, value: type === "datetime-local" ? asked[name].slice(0, 19) : asked[name], maxlength: 1000, autocomplete: "off", spellcheck: "false", ...more }));
  const made = h("form", { class: "search card", role: "search", "aria-label": "Filter dead letters" },
    choice("reason", "Reason", told.reasons), choice("topic", "Topic", told.topics), input("account", "Account", "text"), input("event_type", "Type", "text"),
    input("after", "Set aside from (UTC)", "datetime-local", { step: 1 }), input("before", "Before (UTC)", "datetime-local", { step: 1 }),
    h("div", { class: "buttons" }, h("button", { type: "submit", class: "primary" }, "Filter"), h("a", { class: "button", href: "#/letters" }, "All")));
  return leadsTo("letters", made);
}

/** What became of a letter, in a word. */
export function became(letter) {
  if (letter.became === null) return status("unknown", "not known");
  const { answer, redriven, again } = letter.became;
  if (answer) return status("ok", `answered: ${words(answer.code)}`);
  if (again) return status("failed", `dead-lettered again: ${again}`);
  if (redriven.length) return redriven.at(-1).offset === null ? status("warning", "in doubt") : status("running", "sent back");
  return status("unknown", "nothing yet");
}

function draw(told, asked) {
  const selection = Object.fromEntries(Object.entries(asked).filter(([, value]) => value));
  const all = told.total ? h("div", { class: "actions" },
    h("p", {}, `${count(told.total, "dead letter")}${told.total > told.letters.length ? `, the newest ${number(told.letters.length)} shown` : ""}`),
    h("button", { type: "button", class: "primary", "data-key": "redrive all", on: { click: () => back(selection, told.total) } }, `Send ${count(told.total, "message")} back …`)) : null;
  return [
    told.silent && h("p", { class: "card" }, status("warning", "History unavailable"), ` Postgres cannot be queried: ${told.silent}`),
    section("Letters", all, table("Dead letters", [
      ["Place", (letter) => link(`#/letters/${letter.place}`, letter.place)],
      ["Set aside", (letter) => time(letter.set_aside_at)],
      ["Reason", (letter) => words(letter.reason)],
      ["Account", (letter) => letter.account_id ?? "–", "cut"],
      ["Type", (letter) => letter.event_type ?? "–", "type"],
      ["Origin", (letter) => `${letter.origin_topic} ${letter.origin_partition}/${letter.origin_offset}`],
      ["Became", became],
    ], told.letters, { empty: "No dead letter matches. Every message could be decided, or retention took it.", key: (letter) => letter.place })),
  ];
}

async function back(selection, total) {
  const begun = await askToRedrive(selection, `The messages of ${count(total, "dead letter")} would be sent back.`);
  if (begun) location.hash = begun.operation === null ? "#/operations" : `#/operations/${begun.operation}`;
}
