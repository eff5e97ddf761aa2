// Dead letters that match a filter, and their redrive.

import { redriveDeadLetters } from "../dialogs.js";
import { h, link, openOnSubmit, section, show, status, table } from "../dom.js";
import { count, number, time, words } from "../format.js";
import { subscribe } from "../live.js";
import { startLoader } from "../loading.js";

const FILTERS = ["topic", "reason", "account", "event_type", "after", "before"];

export function showDeadLetters({ body, parameters, signal }) {
  const values = Object.fromEntries(FILTERS.map((name) => [name, parameters.get(name) ?? ""]));
  const found = h("div", {});
  const filter = h("div", {});
  show(body, filter, found);
  let hasForm = false;
  const reload = startLoader(found, signal, "/api/dead-letters", values, (report) => {
    if (!hasForm) show(filter, filterForm(values, report));
    hasForm = true;
    return draw(report, values);
  });
  let changes = null;
  signal.addEventListener("abort", subscribe((sample) => {
    if (changes !== null && changes !== sample.changes.dead_letters + sample.changes.operations) reload();
    changes = sample.changes.dead_letters + sample.changes.operations;
  }));
}

function filterForm(values, report) {
  const choice = (name, label, options) => h("div", { class: "field" }, h("label", { for: `f-${name}` }, label),
    h("select", { id: `f-${name}`, name }, h("option", { value: "" }, "any"), options.map((value) => h("option", { value, selected: value === values[name] }, words(value)))));
  const input = (name, label, type, more = {}) => h("div", { class: "field" }, h("label", { for: `f-${name}` }, label),
    h("input", { id: `f-${name}`, name, type, value: type === "datetime-local" ? values[name].slice(0, 19) : values[name], maxlength: 1000, autocomplete: "off", spellcheck: "false", ...more }));
  const form = h("form", { class: "search card", role: "search", "aria-label": "Filter dead letters" },
    choice("reason", "Reason", report.reasons), choice("topic", "Topic", report.topics), input("account", "Account", "text"), input("event_type", "Type", "text"),
    input("after", "Dead-lettered from (UTC)", "datetime-local", { step: 1 }), input("before", "Before (UTC)", "datetime-local", { step: 1 }),
    h("div", { class: "buttons" }, h("button", { type: "submit", class: "primary" }, "Filter"), h("a", { class: "button", href: "#/letters" }, "Reset")));
  return openOnSubmit("letters", form);
}

/** Returns the outcome of a dead letter in few words. */
export function outcomeStatus(letter) {
  if (letter.became === null) return status("unknown", "unknown");
  const { answer, redriven, again } = letter.became;
  if (answer) return status("ok", `answered: ${words(answer.code)}`);
  if (again) return status("failed", `dead-lettered again: ${again}`);
  if (redriven.length) return redriven.at(-1).offset === null ? status("warning", "in doubt") : status("running", "redriven");
  return status("unknown", "none yet");
}

function draw(report, values) {
  const selection = Object.fromEntries(Object.entries(values).filter(([, value]) => value));
  const actions = report.total ? h("div", { class: "actions" },
    h("p", {}, `${count(report.total, "dead letter")}${report.total > report.letters.length ? `, newest ${number(report.letters.length)} shown` : ""}`),
    h("button", { type: "button", class: "primary", "data-key": "redrive all", on: { click: () => redrive(selection, report.total) } }, `Redrive ${count(report.total, "message")} …`)) : null;
  return [
    report.silent && h("p", { class: "card" }, status("warning", "History unavailable"), ` Postgres cannot be queried: ${report.silent}`),
    section("Dead letters", actions, table("Dead letters", [
      ["Dead letter", (letter) => link(`#/letters/${letter.place}`, letter.place)],
      ["Dead-lettered", (letter) => time(letter.set_aside_at)],
      ["Reason", (letter) => words(letter.reason)],
      ["Account", (letter) => letter.account_id ?? "–", "cut"],
      ["Type", (letter) => letter.event_type ?? "–", "type"],
      ["Origin", (letter) => `${letter.origin_topic} ${letter.origin_partition}/${letter.origin_offset}`],
      ["Outcome", outcomeStatus],
    ], report.letters, { empty: "No dead letter matches. Retention may have removed older dead letters.", key: (letter) => letter.place })),
  ];
}

async function redrive(selection, total) {
  const started = await redriveDeadLetters(selection, `This redrives the messages of ${count(total, "dead letter")}.`);
  if (started) location.hash = started.operation === null ? "#/operations" : `#/operations/${started.operation}`;
}
