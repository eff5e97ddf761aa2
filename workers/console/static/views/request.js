// One request: its record, what it was decided, the lines, their events, and where those stand.

import { facts, h, leadsTo, link, section, show, status, table } from "../dom.js";
import { count, number, time, words } from "../format.js";
import { loader } from "../loading.js";

const RECORD = { gone: "retention took it", other: "something else is there: the topic was made anew", unknown: "the topic was not asked", there: "there" };
const EVENT = {
  found: ["ok", "published"], gone: ["unknown", "taken by retention, or not published yet"], absent: ["warning", "not published yet: see lag"],
  beyond: ["unknown", "not among the records searched"], unknown: ["unknown", "the topic was not asked"],
};

export function request({ body, heading, parameters, signal }) {
  const id = parameters.get("id") ?? "";
  const account = parameters.get("account") ?? "";
  const found = h("div", {});
  show(body, search(id, account), found);
  if (!id && !account) {
    show(found, h("p", { class: "empty" }, "A request is found by its id, or by that of an event it caused; an account's last ones by the account."));
    return;
  }
  heading.textContent = id ? `Request ${id}` : `Requests of ${account}`;
  loader(found, signal, "/api/request", { id, account }, draw);
}

function search(id, account) {
  const form = h("form", { class: "search card", role: "search" },
    h("div", { class: "field" }, h("label", { for: "request-id" }, "Request or event id"), h("input", { id: "request-id", name: "id", value: id, maxlength: 100, spellcheck: "false", autocomplete: "off", placeholder: "a UUID" })),
    h("div", { class: "field" }, h("label", { for: "request-account" }, "Account"), h("input", { id: "request-account", name: "account", value: account, maxlength: 1000, spellcheck: "false", autocomplete: "off" })),
    h("button", { type: "submit", class: "primary" }, "Trace"));
  return leadsTo("request", form);
}

function draw(found) {
  return [
    found.kafka !== "asked" && h("p", { class: "card" }, status("warning", "Kafka was not asked"), ` ${found.kafka}`),
    found.waiting.length > 0 && section("Waiting", h("p", {}, "Read by no worker yet:"), h("ul", {}, found.waiting.map((seen) => h("li", {}, place(seen), " ", time(seen.time), " ", link("#/lag", "Lag"))))),
    found.traces.map(trace),
    found.dead_letters.length > 0 && section("Dead letters", table("Dead letters", [
      ["Place", (letter) => link(`#/letters/${letter.place}`, letter.place)],
      ["Set aside", (letter) => time(letter.set_aside_at)],
      ["Reason", (letter) => words(letter.reason)],
      ["Error", (letter) => letter.error, "wide"],
    ], found.dead_letters)),
    h("p", { class: "quiet" }, `The newest ${number(found.searched)} records of each partition were searched; inmail trace --limit looks further.`),
  ];
}

const place = (seen) => `${seen.topic} ${seen.partition}/${seen.offset}`;

function trace(each, index) {
  const record = each.record;
  const who = each.account === null ? `Tick in partition ${record.partition}` : "Request";
  return h("section", { class: "card", "aria-labelledby": `trace-${index}` },
    h("h2", { id: `trace-${index}` }, `${who} `, h("code", {}, each.request_id)),
    h("ol", { class: "steps" },
      step("Record", place(record), " ", record.state === "there" ? time(record.time) : status("unknown", RECORD[record.state] ?? record.state)),
      each.repeats.map((seen) => step("Again", place(seen), " ", time(seen.time), " It gets the first answer.")),
      !each.all_repeats && step("Again", h("span", { class: "quiet" }, "Perhaps behind the records searched.")),
      step("Decided", "as of ", time(each.as_of), each.account !== null && [" for ", link(`#/account?${new URLSearchParams({ id: each.account })}`, each.account)]),
      each.tick && step("Tick", `${words(each.tick.code)}: ${count(each.tick.lots, "lot")}, ${count(each.tick.credits, "credit")}, up to `, time(each.tick.horizon)),
      each.lines.map((line) => [
        step(`Line ${line.sequence}`, status(line.reason.startsWith("refused") ? "failed" : "ok", words(line.code)), ` ${line.amount ? `${line.amount > 0 ? "+" : ""}${count(line.amount, "credit")}, ` : ""}balance ${number(line.balance_before)} → ${number(line.balance_after)}`,
          h("p", {}, line.reason), line.lot !== null && h("p", { class: "quiet" }, `lot ${line.lot} until `, time(line.lot_expires_at))),
        event(line.event),
      ]),
      each.tick && [each.tick.events ?? []].flat().map(event),
      each.more_lines && step("", "… and more lines.")),
    each.lots.length > 0 && h("details", { "data-key": `lots ${index}` }, h("summary", {}, `${count(each.lots.length, "lot")} as of now`),
      each.lots.map((lot) => facts(["Lot", number(lot.lot)], ["Origin", lot.plan ? `${lot.origin}, ${lot.plan}` : lot.origin], ["Remaining", `${number(lot.remaining)} of ${count(lot.granted, "credit")}`], ["From", time(lot.granted_at)], ["Until", time(lot.expires_at)]))));
}

function step(name, ...content) {
  return h("li", {}, h("span", { class: "step" }, name), h("div", {}, content));
}

function event(told) {
  const [kind, text] = EVENT[told.state] ?? ["unknown", told.state];
  return step("Event", h("code", {}, told.type), " ", status(kind, text),
    told.results.map((seen) => h("p", {}, place(seen), " ", time(seen.time), seen.repeat && " (repeat)")), h("p", { class: "quiet" }, `id ${told.id}`));
}
