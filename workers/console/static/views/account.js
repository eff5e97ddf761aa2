// One account: what it can spend and until when, and every line that led there.

import { lotsAxis } from "../chart.js";
import { h, leadsTo, link, section, show, status, table } from "../dom.js";
import { count, number, time } from "../format.js";
import { every, loader } from "../loading.js";

const LOT = { available: "ok", later: "running", spent: "unknown", ended: "unknown", voided: "unknown", forfeited: "unknown" };
const LINES = 25;
const MORE = 100;
const CHOSEN = { given: "the instant asked for", clock: "now, by the console's clock", last_entry: "its last entry" };

export function account({ body, heading, parameters, signal }) {
  const id = parameters.get("id") ?? "";
  const asOf = parameters.get("as_of") ?? "";
  const found = h("div", {});
  show(body, search(id, asOf), id ? elsewhere(id) : "", found);
  if (!id) {
    show(found, h("p", { class: "empty" }, "Whose credits? Accounts are found by the id that producers use."));
    return;
  }
  heading.textContent = `Account ${id}`;
  const lines = { shown: LINES };
  const again = loader(found, signal, "/api/account", { id, as_of: asOf }, (account_) => draw(account_, lines));
  if (!asOf) every(5, signal, again);
}

function search(id, asOf) {
  const form = h("form", { class: "search card", role: "search" },
    h("div", { class: "field" }, h("label", { for: "account-id" }, "Account"), h("input", { id: "account-id", name: "id", value: id, required: true, maxlength: 1000, spellcheck: "false", autocomplete: "off" })),
    h("div", { class: "field" }, h("label", { for: "account-as-of" }, "As of (UTC; now unless given)"), h("input", { id: "account-as-of", name: "as_of", type: "datetime-local", step: 1, value: asOf.slice(0, 19) })),
    h("button", { type: "submit", class: "primary" }, "Show"));
  return leadsTo("account", form);
}

/** Where a message of the account is that no statement has. */
function elsewhere(id) {
  const account = new URLSearchParams({ account: id });
  return h("p", { class: "quiet" }, "A message that could not be decided is in no statement: see the account's ",
    link(`#/letters?${account}`, "dead letters"), ". From record to answer: its ", link(`#/request?${account}`, "last requests"), ".");
}

function draw(found, lines) {
  return [
    h("div", { class: "tiles" },
      h("div", { class: "tile" }, h("p", { class: "name" }, "Balance"), h("p", { class: "figure" }, count(found.balance, "credit")), h("p", { class: "quiet" }, `as of ${CHOSEN[found.chosen] ?? found.chosen}`)),
      h("div", { class: "tile" }, h("p", { class: "name" }, "Ends next"),
        h("p", { class: "figure" }, found.expiring.length ? count(found.expiring[0][1], "credit") : "none"),
        h("p", { class: "quiet" }, found.expiring.length ? time(found.expiring[0][0]) : "nothing is left to end")),
      h("div", { class: "tile" }, h("p", { class: "name" }, "Sequence"), h("p", { class: "figure" }, found.lines.length ? number(found.lines[0].sequence) : "none"), h("p", { class: "quiet" }, `${count(found.line_count, "line")}, partition ${found.partition}`)),
    ),
    found.erased_at && h("p", { class: "card" }, status("warning", "erased"), " ", time(found.erased_at)),
    found.overtaken > 0 && h("p", { class: "card" }, status("warning", `${count(found.overtaken, "line")} out of order`), " were booked after a line of a later time: the balances of other lines lack them."),
    section("Lots", found.lots.length ? lotsAxis(open(found.lots), found.as_of) : h("p", { class: "empty" }, "No lot was ever opened."), lots(found.lots)),
    statement(found, lines),
  ];
}

/** Lots that still hold something, or, where none does, all of them. */
function open(lots) {
  const held = lots.filter((lot) => lot.state === "available" || lot.state === "later");
  return held.length ? held : lots;
}

function lots(rows) {
  if (!rows.length) return null;
  return h("details", { "data-key": "lots" }, h("summary", {}, `As a table: ${count(rows.length, "lot")}`), table("Lots", [
    ["Lot", (lot) => number(lot.lot)],
    ["State", (lot) => status(LOT[lot.state] ?? "unknown", lot.state)],
    ["Origin", (lot) => (lot.plan ? `${lot.origin}, ${lot.plan}` : lot.origin)],
    ["Remaining", (lot) => `${number(lot.remaining)} of ${number(lot.granted)}`, "number"],
    ["From", (lot) => time(lot.granted_at)],
    ["Until", (lot) => time(lot.expires_at)],
  ], rows));
}

function statement(found, lines) {
  const place = h("div", {});
  const draw_ = () => show(place, rows(found, found.lines.slice(0, lines.shown)), found.lines.length > lines.shown
    ? h("button", { type: "button", "data-key": "more", on: { click: () => { lines.shown += MORE; draw_(); } } }, `Show ${number(Math.min(MORE, found.lines.length - lines.shown))} more`) : null);
  draw_();
  const text = found.lines.length < found.line_count ? `${count(found.line_count, "line")}, of which the newest ${number(found.lines.length)} can be shown; inmail statement has all.` : `${count(found.line_count, "line")}, the newest first.`;
  return section("Statement", h("p", { class: "quiet" }, text), place);
}

// Of an id its end is shown: those of version 7 begin alike when they are of the same minute.
function rows(found, shown) {
  return table("Statement", [
    ["Sequence", (line) => number(line.sequence), "number"],
    ["As of", (line) => time(line.as_of)],
    ["Code", (line) => h("code", {}, line.code)],
    ["Credits", (line) => (line.amount > 0 ? `+${number(line.amount)}` : number(line.amount)), "number"],
    ["Balance", (line) => number(line.balance_after), "number"],
    ["Lot", (line) => (line.lot === null ? "–" : number(line.lot)), "number"],
    ["Why", (line) => line.reason, "wide"],
    ["Request", (line) => link(`#/request?${new URLSearchParams({ id: line.request_id, account: found.account_id })}`, `…${line.request_id.slice(-8)}`, { "aria-label": `Request ${line.request_id}`, title: line.request_id, "data-key": `line ${line.sequence}` })],
  ], shown, { empty: "No line was booked up to then." });
}
