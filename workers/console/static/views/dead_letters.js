// Dead letters that match a filter, page by page, and the redrive of all of them or of selected ones.

import { redriveDeadLetters } from "../dialogs.js";
import { h, link, openOnSubmit, section, show, silentServers, status, table } from "../dom.js";
import { count, number, time, words } from "../format.js";
import { subscribe } from "../live.js";
import { startLoader } from "../loading.js";

const FILTERS = ["topic", "reason", "account", "event_type", "after", "before"];
const PAGE = 50;

// The places that are selected, on all pages of one filter.
const selected = { filter: "", places: new Set() };

export function showDeadLetters({ body, parameters, signal }) {
  const values = Object.fromEntries(FILTERS.map((name) => [name, parameters.get(name) ?? ""]));
  const older = parameters.get("older_than") ?? "";
  if (selected.filter !== JSON.stringify(values)) Object.assign(selected, { filter: JSON.stringify(values), places: new Set() });
  const found = h("div", {});
  const filter = h("div", {});
  show(body, filter, found);
  let hasForm = false;
  const reload = startLoader(found, signal, "/api/dead-letters", { ...values, older_than: older, last: PAGE }, (report) => {
    if (!hasForm) show(filter, filterForm(values, report));
    hasForm = true;
    return draw(report, values, older);
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

/** Returns what is not known of the letters' histories, and why. */
export function historyNotice(found) {
  return [found.silent && h("p", { class: "card" }, status("warning", "History unavailable"), ` Postgres cannot be queried: ${found.silent}`), silentServers(found.silent_servers)];
}

/** Returns the outcome of a dead letter in few words. */
export function outcomeStatus(letter) {
  if (letter.became === null) return status("unknown", "unknown");
  const { answer, redriven, again, unknown } = letter.became;
  if (answer) return status("ok", `answered: ${words(answer.code)}`);
  if (again) return status("failed", `dead-lettered again: ${again}`);
  if (unknown) return status("unknown", "redriven, then unknown"); // the search for what it became was cut short
  if (redriven.length) return redriven.at(-1).offset === null ? status("warning", "in doubt") : status("running", "redriven");
  return status("unknown", "none yet");
}

function draw(report, values, older) {
  const filter = Object.fromEntries(Object.entries(values).filter(([, value]) => value));
  const chosen = h("button", { type: "button", class: "primary", "data-key": "redrive selected", on: { click: () => redriveSelected() } });
  const known = !older && report.next === null ? report.letters.length : null; // how many match: only a search of all tells
  const all = h("button", { type: "button", "data-key": "redrive all", on: { click: () => redrive(filter, known) } }, known === null ? "Redrive all that match …" : `Redrive ${count(known, "message")} …`);
  const boxes = new Map(report.letters.map((letter) => [letter.place, selectionBox(letter.place, showSelection)]));
  const whole = h("input", { type: "checkbox", "aria-label": "Select all on this page", "data-key": "select all", on: { change: () => selectAll(whole.checked) } });

  function selectAll(on) {
    for (const place of boxes.keys()) on ? selected.places.add(place) : selected.places.delete(place);
    showSelection();
  }

  function showSelection() {
    for (const [place, box] of boxes) box.checked = selected.places.has(place);
    const here = [...boxes.values()].filter((box) => box.checked).length;
    whole.checked = here > 0 && here === boxes.size;
    whole.indeterminate = here > 0 && here < boxes.size;
    const n = selected.places.size;
    chosen.textContent = n ? `Redrive ${number(n)} selected …` : "Redrive selected …";
    chosen.disabled = n === 0;
  }

  showSelection();
  return [
    historyNotice(report),
    section("Dead letters", older || report.next || report.letters.length ? h("div", { class: "actions" }, pagePosition(report, older), h("div", { class: "buttons" }, chosen, all)) : null,
      report.letters.length > 0 && h("label", { class: "check" }, whole, " Select all on this page"),
      table("Dead letters", [
        ["Dead letter", (letter) => h("span", { class: "chosen" }, boxes.get(letter.place), link(`#/letters/${letter.place}`, letter.place))],
        ["Dead-lettered", (letter) => time(letter.set_aside_at)],
        ["Reason", (letter) => [h("strong", {}, words(letter.reason)), h("span", { class: "error" }, letter.error)], "wide"],
        ["Account", accountCell, "cut"],
        ["Message", (letter) => [h("span", { class: "error" }, letter.event_type ?? "no type"), h("span", { class: "quiet" }, `${letter.origin_topic} ${letter.origin_partition}/${letter.origin_offset}`)], "type"],
        ["Outcome", outcomeStatus],
      ], report.letters, { empty: emptyText(report, older), key: (letter) => letter.place }),
      pageLinks(report, values, older)),
  ];
}

function selectionBox(place, changed) {
  const box = h("input", { type: "checkbox", "aria-label": `Select dead letter ${place}`, "data-key": `select ${place}`, on: { change: () => {
    box.checked ? selected.places.add(place) : selected.places.delete(place);
    changed();
  } } });
  return box;
}

/** Returns the account as a link, by the subject where a message has no usable key. */
function accountCell(letter) {
  const account = letter.account_id ?? letter.subject ?? null;
  return account === null ? "–" : link(`#/account?${new URLSearchParams({ id: account })}`, account);
}

function emptyText(report, older) {
  if (report.next) return "No dead letter matches so far.";
  return older ? "No older dead letter matches." : "No dead letter matches. Retention may have removed older dead letters.";
}

/** Returns how many letters the page has, and how far it has searched where rare matches did not fill it. */
function pagePosition(report, older) {
  const n = report.letters.length;
  const kind = older ? "older dead letter" : "dead letter";
  let found = count(n, kind);
  if (report.next) found = n === 0 ? "No match" : older ? found : `The newest ${found}`;
  return h("p", {}, found, report.next && n < PAGE && report.searched_to && [": searched back to ", time(report.searched_to)]);
}

function pageLinks(report, values, older) {
  if (!older && report.next === null) return null;
  const path = (more) => `#/letters?${new URLSearchParams(Object.entries({ ...values, ...more }).filter(([, value]) => value))}`;
  return h("nav", { class: "pages", "aria-label": "Pages" }, older && link(path({}), "Newest"), report.next && link(path({ older_than: report.next }), report.letters.length < PAGE ? "Search older" : "Older"));
}

async function redriveSelected() {
  const places = [...selected.places];
  const started = await redriveDeadLetters({ places }, `This redrives the messages of ${count(places.length, "selected dead letter")}.`);
  if (started) selected.places.clear();
  open(started);
}

async function redrive(filter, known) {
  const which = known === null ? "all dead letters that match, on every page" : count(known, "dead letter");
  open(await redriveDeadLetters(filter, `This redrives the messages of ${which}.`));
}

function open(started) {
  if (started) location.hash = started.operation === null ? "#/operations" : `#/operations/${started.operation}`;
}
