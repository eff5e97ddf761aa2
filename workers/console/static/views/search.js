// What a text names: an account, a request or event, or a dead letter. Where it names one thing only, that is opened.

import { h, link, section, show } from "../dom.js";
import { startLoader } from "../loading.js";

const path = (view, values) => `#/${view}?${new URLSearchParams(values)}`;

export function showSearch({ body, heading, parameters, signal }) {
  const text = (parameters.get("q") ?? "").trim();
  if (!text) {
    show(body, h("p", { class: "empty" }, "Enter an account, the ID of a request or of an event, or a dead letter's partition and offset, like 3/17."));
    return;
  }
  heading.textContent = `Search: ${text}`;
  startLoader(body, signal, "/api/search", { q: text }, (found) => {
    const exact = [found.account && path("account", { id: found.account }), found.dead_letter && `#/letters/${found.dead_letter}`, found.id && path("request", { id: found.id })].filter(Boolean);
    // Replaces the search, so that the browser's way back leads to where it was asked.
    if (exact.length === 1 && !found.accounts.length) location.replace(exact[0]);
    return draw(found, text);
  });
}

function draw(found, text) {
  const list = (items) => h("ul", { class: "links" }, items.map((item) => h("li", {}, item)));
  return [
    section("Accounts", found.account || found.accounts.length
      ? list([found.account, ...found.accounts].filter(Boolean).map((id) => link(path("account", { id }), id)))
      : h("p", { class: "empty" }, "No account of the ledger begins with this text."),
    found.more && h("p", { class: "quiet" }, "There are more: enter more of the id.")),
    section("Elsewhere", list([
      found.id && link(path("request", { id: found.id }), `Trace request or event ${found.id}`),
      found.dead_letter && link(`#/letters/${found.dead_letter}`, `Dead letter ${found.dead_letter}`),
      !found.id && link(path("request", { id: text }), `Trace it as the ID that a producer gave its event`),
      link(path("letters", { account: text }), "Dead letters of this account"),
      link(path("request", { account: text }), "Waiting records and last requests of this account"),
    ].filter(Boolean))),
  ];
}
