// Lots: when each can be spent, on a date axis, and beside it how much of it is left, on a scale of credits.

import { h } from "./dom.js";
import { dayOf, number } from "./format.js";

const MOST = 40;
const TICKS = [0, 0.25, 0.5, 0.75, 1];

/** Returns the lots' lives and amounts. Time and amount never share a bar. */
export function lotsChart(lots, asOf) {
  const rows = lots.slice(0, MOST);
  const now = Date.parse(asOf);
  const begin = Math.min(...rows.map((lot) => Date.parse(lot.granted_at)), now);
  const end = Math.max(...rows.map((lot) => Date.parse(lot.expires_at)), now);
  const span = Math.max(end - begin, 1);
  const largest = Math.max(...rows.map((lot) => lot.granted), 1);
  const share = (instant) => ((instant - begin) / span) * 100;
  return h("figure", { class: "lots" },
    h("figcaption", {}, "In the order of spending. Left: from grant to expiry; the vertical line is the balance's time. Right: what is left of what was granted."),
    h("div", { class: "plot" }, h("div", { class: "over", "aria-hidden": "true" }, place("span", "now", share(now))), h("ol", {}, rows.map((lot) => lotRow(lot, share, largest)))),
    h("div", { class: "axis", "aria-hidden": "true" }, TICKS.map((part) => place("span", "tick", part * 100, dayOf(begin + part * span)))),
    lots.length > rows.length && h("p", { class: "quiet" }, `First ${rows.length} of ${lots.length} lots; the table shows all.`));
}

function lotRow(lot, share, largest) {
  const from = share(Date.parse(lot.granted_at));
  const life = place("span", `life ${lot.state}`, Math.max(0, from));
  life.style.width = `${Math.max(0.6, share(Date.parse(lot.expires_at)) - from)}%`;
  const granted = h("span", { class: "granted" }, h("span", { class: "remaining" }));
  granted.style.width = `${Math.max(2, (lot.granted / largest) * 100)}%`;
  granted.firstChild.style.width = `${lot.granted ? (lot.remaining / lot.granted) * 100 : 0}%`;
  const text = `lot ${lot.lot}, ${lot.origin}${lot.plan ? ` of ${lot.plan}` : ""}: ${number(lot.remaining)} of ${number(lot.granted)} credits remain, ${lot.state}, ${dayOf(lot.granted_at)} to ${dayOf(lot.expires_at)}`;
  return h("li", { title: text }, h("span", { class: "hidden" }, text), h("span", { class: "name", "aria-hidden": "true" }, `lot ${lot.lot}`),
    h("span", { class: "lane", "aria-hidden": "true" }, life), h("span", { class: "amount", "aria-hidden": "true" }, h("span", { class: "scale" }, granted), h("span", { class: "left" }, `${number(lot.remaining)} of ${number(lot.granted)}`)));
}

function place(name, kind, percent, ...children) {
  const made = h(name, { class: kind }, ...children);
  made.style.left = `${percent}%`;
  return made;
}
