// One request: its record, its decision, its statement lines, and their events.

import { facts, h, link, openOnSubmit, section, show, silentServers, status, table } from "../dom.js";
import { count, number, time, words } from "../format.js";
import { startLoader } from "../loading.js";

const RECORD_STATES = { gone: "removed by retention", other: "a different record is at this offset: the topic was recreated", unknown: "the topic was not read", there: "present" };
const EVENT_STATES = {
  found: ["ok", "published"], gone: ["unknown", "removed by retention, or not published yet"], absent: ["warning", "not published yet: see Lag"],
  beyond: ["unknown", "not among the records searched"], unknown: ["unknown", "the topic was not read"],
};

export function showRequest({ body, heading, parameters, signal }) {
  const id = parameters.get("id") ?? "";
  const account = parameters.get("account") ?? "";
  const found = h("div", {});
  show(body, searchForm(id, account), found);
  if (!id && !account) {
    show(found, h("p", { class: "empty" }, "Enter the ID of a request or of an event, or an account to see its last requests."));
    return;
  }
  heading.textContent = id ? `Request ${id}` : `Requests of ${account}`;
  startLoader(found, signal, "/api/request", { id, account }, draw);
}

function searchForm(id, account) {
  const form = h("form", { class: "search card", role: "search" },
    h("div", { class: "field" }, h("label", { for: "request-id" }, "Request or event ID"), h("input", { id: "request-id", name: "id", value: id, maxlength: 100, spellcheck: "false", autocomplete: "off", placeholder: "a UUID" })),
    h("div", { class: "field" }, h("label", { for: "request-account" }, "Account"), h("input", { id: "request-account", name: "account", value: account, maxlength: 1000, spellcheck: "false", autocomplete: "off" })),
    h("button", { type: "submit", class: "primary" }, "Trace"));
  return openOnSubmit("request", form);
}

function draw(found) {
  return [
    found.kafka !== "asked" && h("p", { class: "card" }, status("warning", "Kafka was not read"), ` ${found.kafka}`),
    silentServers(found.silent_servers),
    found.waiting.length > 0 && section("Waiting", h("p", {}, "No worker has read these records yet:"), h("ul", {}, found.waiting.map((record) => h("li", {}, position(record), " ", time(record.time), " ", link("#/lag", "Lag"))))),
    found.traces.map(traceCard),
    found.dead_letters.length > 0 && section("Dead letters", table("Dead letters", [
      ["Dead letter", (letter) => link(`#/letters/${letter.place}`, letter.place)],
      ["Dead-lettered", (letter) => time(letter.set_aside_at)],
      ["Reason", (letter) => words(letter.reason)],
      ["Error", (letter) => letter.error, "wide"],
    ], found.dead_letters)),
    h("p", { class: "quiet" }, `The newest ${number(found.searched)} records of each partition were searched; inmail trace --limit searches more.`),
  ];
}

const position = (record) => `${record.topic} ${record.partition}/${record.offset}`;

function traceCard(each, index) {
  const record = each.record;
  const subject = each.account === null ? `Tick in partition ${record.partition}` : "Request";
  return h("section", { class: "card", "aria-labelledby": `trace-${index}` },
    h("h2", { id: `trace-${index}` }, `${subject} `, h("code", {}, each.request_id)),
    h("ol", { class: "steps" },
      step("Record", position(record), " ", record.state === "there" ? time(record.time) : status("unknown", RECORD_STATES[record.state] ?? record.state)),
      each.repeats.map((repeat) => step("Repeat", position(repeat), " ", time(repeat.time), " gets the first answer")),
      !each.all_repeats && step("Repeat", h("span", { class: "quiet" }, "possibly beyond the records searched")),
      step("Decided", "as of ", time(each.as_of), each.account !== null && [" for ", link(`#/account?${new URLSearchParams({ id: each.account })}`, each.account)]),
      each.tick && step("Tick", `${words(each.tick.code)}: ${count(each.tick.lots, "lot")}, ${count(each.tick.credits, "credit")}, up to `, time(each.tick.horizon)),
      each.lines.map((line) => [
        step(`Line ${line.sequence}`, status(line.reason.startsWith("refused") ? "failed" : "ok", words(line.code)), ` ${line.amount ? `${line.amount > 0 ? "+" : ""}${count(line.amount, "credit")}, ` : ""}balance ${number(line.balance_before)} → ${number(line.balance_after)}`,
          h("p", {}, line.reason), line.lot !== null && h("p", { class: "quiet" }, `lot ${line.lot} until `, time(line.lot_expires_at))),
        eventStep(line.event),
      ]),
      each.tick && [each.tick.events ?? []].flat().map(eventStep),
      each.more_lines && step("", "… and more lines.")),
    each.lots.length > 0 && h("details", { "data-key": `lots ${index}` }, h("summary", {}, `${count(each.lots.length, "lot")} as of now`),
      each.lots.map((lot) => facts(["Lot", number(lot.lot)], ["Origin", lot.plan ? `${lot.origin}, ${lot.plan}` : lot.origin], ["Remaining", `${number(lot.remaining)} of ${count(lot.granted, "credit")}`], ["From", time(lot.granted_at)], ["Until", time(lot.expires_at)]))));
}

function step(name, ...content) {
  return h("li", {}, h("span", { class: "step" }, name), h("div", {}, content));
}

function eventStep(event) {
  const [kind, text] = EVENT_STATES[event.state] ?? ["unknown", event.state];
  return step("Event", h("code", {}, event.type), " ", status(kind, text),
    event.results.map((result) => h("p", {}, position(result), " ", time(result.time), result.repeat && " (repeat)")), h("p", { class: "quiet" }, `ID ${event.id}`));
}
