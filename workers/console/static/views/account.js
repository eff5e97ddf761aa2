// One account: its balance, its lots with their expiry, and its statement.

import { get } from "../api.js";
import { balanceChart } from "../balance.js";
import { h, link, openOnSubmit, section, show, status, table } from "../dom.js";
import { count, number, time } from "../format.js";
import { lotsChart } from "../lots.js";
import { rangeChoice } from "../ranges.js";
import { errorCard, reloadEvery, startLoader } from "../loading.js";

const LOT_KINDS = { available: "ok", later: "running", spent: "unknown", ended: "unknown", voided: "unknown", forfeited: "unknown" };
const FIRST_LINES = 25;
const MORE_LINES = 100;
const AS_OF = { given: "the requested time", clock: "now, by the console's clock", last_entry: "the last entry" };

export function showAccount({ body, heading, parameters, signal }) {
  const id = parameters.get("id") ?? "";
  const asOf = parameters.get("as_of") ?? "";
  const found = h("div", {});
  show(body, searchForm(id, asOf), id ? relatedLinks(id) : "", found);
  if (!id) {
    show(found, h("p", { class: "empty" }, "Enter an account ID (the event's subject)."));
    return;
  }
  heading.textContent = `Account ${id}`;
  const lines = { shown: FIRST_LINES };
  const balance = balanceSection(id, asOf, signal);
  const reload = startLoader(found, signal, "/api/account", { id, as_of: asOf }, (account) => {
    balance.load(account);
    return draw(account, lines, balance.element);
  });
  if (!asOf) reloadEvery(5, signal, reload);
}

function searchForm(id, asOf) {
  const form = h("form", { class: "search card", role: "search" },
    h("div", { class: "field" }, h("label", { for: "account-id" }, "Account"), h("input", { id: "account-id", name: "id", value: id, required: true, maxlength: 1000, spellcheck: "false", autocomplete: "off" })),
    h("div", { class: "field" }, h("label", { for: "account-as-of" }, "As of (UTC; default now)"), h("input", { id: "account-as-of", name: "as_of", type: "datetime-local", step: 1, value: asOf.slice(0, 19) })),
    h("button", { type: "submit", class: "primary" }, "Show"));
  return openOnSubmit("account", form);
}

/** Links to messages of the account that are not in its statement. */
function relatedLinks(id) {
  const account = new URLSearchParams({ account: id });
  return h("p", { class: "quiet" }, "Messages that could not be decided are not in the statement: see the account's ",
    link(`#/letters?${account}`, "dead letters"), ". For traces from record to answer, see its ", link(`#/request?${account}`, "last requests"), ".");
}

const RANGES = [["1", "1 day"], ["30", "30 days"], ["90", "90 days"], ["365", "1 year"], ["", "all"]];

/** Returns the section with the balance over time, and a function that loads it where it is another than before. */
function balanceSection(id, asOf, signal) {
  const content = h("div", {});
  const cursor = { at: null };
  let account = null;
  let wanted = null; // what the chart shows, or is about to
  let days = "90";
  const choices = rangeChoice("balance-range", RANGES, days, (value) => { days = value; load(account); });

  async function load(known) {
    account = known;
    // The balance too: a lot that starts or ends changes it without a new line.
    const asked = `${account.lines[0]?.sequence} ${account.balance} ${days}`;
    if (asked === wanted) return;
    wanted = asked;
    try {
      const found = await get("/api/account/balance", { id, as_of: asOf, days }, signal);
      if (asked !== wanted) return; // an answer that took longer than a later one
      const cut = found.cut_at === null ? [] : [h("p", {}, "This account has more lines than the chart reads: it ends at ", time(found.cut_at), ".")];
      if (!show(content, [...cut, balanceChart(found, cursor)])) wanted = null; // text is selected: loaded again later
    } catch (error) {
      if (error.name !== "AbortError" && asked === wanted) show(content, errorCard(error, () => { wanted = null; load(account); }));
    }
  }

  return { element: section("Balance over time", choices, content, h("p", { class: "quiet" }, "The vertical line is the balance's time. After it, dashed: what remains if nothing is sent or granted. The range goes as far ahead as back.")), load };
}

function draw(found, lines, balance) {
  return [
    h("div", { class: "tiles" },
      h("div", { class: "tile" }, h("p", { class: "name" }, "Balance"), h("p", { class: "figure" }, count(found.balance, "credit")), h("p", { class: "quiet" }, `as of ${AS_OF[found.chosen] ?? found.chosen}`)),
      h("div", { class: "tile" }, h("p", { class: "name" }, "Next expiry"),
        h("p", { class: "figure" }, found.expiring.length ? count(found.expiring[0][1], "credit") : "none"),
        h("p", { class: "quiet" }, found.expiring.length ? time(found.expiring[0][0]) : "no credits remain to expire")),
      h("div", { class: "tile" }, h("p", { class: "name" }, "Sequence"), h("p", { class: "figure" }, found.lines.length ? number(found.lines[0].sequence) : "none"), h("p", { class: "quiet" }, `${count(found.line_count, "line")}, partition ${found.partition}`)),
    ),
    found.erased_at && h("p", { class: "card" }, status("warning", "erased"), " ", time(found.erased_at)),
    found.overtaken > 0 && h("p", { class: "card" }, status("warning", `${count(found.overtaken, "line")} out of order`), " booked after a line of a later time: the balances of other lines do not include them."),
    balance,
    section("Lots", found.lots.length ? lotsChart(usableLots(found.lots), found.as_of) : h("p", { class: "empty" }, "No lots."), lotsTable(found.lots)),
    statementSection(found, lines),
  ];
}

/** Returns the lots that are or will be available, or all lots where there are none. */
function usableLots(lots) {
  const held = lots.filter((lot) => lot.state === "available" || lot.state === "later");
  return held.length ? held : lots;
}

function lotsTable(rows) {
  if (!rows.length) return null;
  return h("details", { "data-key": "lots" }, h("summary", {}, `Table: ${count(rows.length, "lot")}`), table("Lots", [
    ["Lot", (lot) => number(lot.lot)],
    ["State", (lot) => status(LOT_KINDS[lot.state] ?? "unknown", lot.state)],
    ["Origin", (lot) => (lot.plan ? `${lot.origin}, ${lot.plan}` : lot.origin)],
    ["Remaining", (lot) => `${number(lot.remaining)} of ${number(lot.granted)}`, "number"],
    ["From", (lot) => time(lot.granted_at)],
    ["Until", (lot) => time(lot.expires_at)],
  ], rows));
}

function statementSection(found, lines) {
  const content = h("div", {});
  const showLines = () => show(content, statementTable(found, found.lines.slice(0, lines.shown)), found.lines.length > lines.shown
    ? h("button", { type: "button", "data-key": "more", on: { click: () => { lines.shown += MORE_LINES; showLines(); } } }, `Show ${number(Math.min(MORE_LINES, found.lines.length - lines.shown))} more`) : null);
  showLines();
  const text = found.lines.length < found.line_count ? `${count(found.line_count, "line")}; the page shows the newest ${number(found.lines.length)}, inmail statement shows all.` : `${count(found.line_count, "line")}, newest first.`;
  return section("Statement", h("p", { class: "quiet" }, text), content);
}

function statementTable(found, shown) {
  return table("Statement", [
    ["Sequence", (line) => number(line.sequence), "number"],
    ["As of", (line) => time(line.as_of)],
    ["Code", (line) => h("code", {}, line.code)],
    ["Credits", (line) => (line.amount > 0 ? `+${number(line.amount)}` : number(line.amount)), "number"],
    ["Balance", (line) => number(line.balance_after), "number"],
    ["Lot", (line) => (line.lot === null ? "–" : number(line.lot)), "number"],
    ["Reason", (line) => line.reason, "wide"],
    ["Request", (line) => link(`#/request?${new URLSearchParams({ id: line.request_id, account: found.account_id })}`, line.request_id, { class: "id", "data-key": `line ${line.sequence}` })],
  ], shown, { empty: "No lines up to this time." });
}
