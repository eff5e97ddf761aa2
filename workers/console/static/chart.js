// Small charts as inline SVG. Each has a text alternative; the tables beside them have the numbers.

import { h, s } from "./dom.js";
import { dayOf, number } from "./format.js";

/** Returns a line chart. `label` is its text alternative; `at` holds the time of each value. */
export function sparkline(values, label, { width = 160, height = 32, at }) {
  const known = values.filter((value) => value !== null && value !== undefined);
  if (known.length < 2) return h("span", { class: "quiet" }, "collecting …");
  const top = Math.max(...known, 1e-9);
  const span = at[at.length - 1] - at[0] || 1;
  const x = (index) => ((at[index] - at[0]) / span) * (width - 2) + 1;
  const y = (value) => height - 2 - (value / top) * (height - 5);
  const points = values.map((value, index) => [x(index), value]).filter(([, value]) => value !== null && value !== undefined)
    .map(([position, value]) => `${position.toFixed(1)},${y(value).toFixed(1)}`);
  const last = points[points.length - 1].split(",");
  return s("svg", { class: "spark", viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": label, preserveAspectRatio: "none" },
    s("line", { x1: 0, x2: width, y1: height - 1.5, y2: height - 1.5, class: "base" }),
    s("polygon", { points: `${points[0].split(",")[0]},${height - 2} ${points.join(" ")} ${last[0]},${height - 2}`, class: "area" }),
    s("polyline", { points: points.join(" "), class: "line" }));
}

/** Returns a share of a whole as a bar; the number is shown beside the bar. */
export function bar(share, kind = "") {
  return s("svg", { class: `bar ${kind}`, viewBox: "0 0 100 8", width: 100, height: 8, "aria-hidden": "true", preserveAspectRatio: "none" },
    s("rect", { width: 100, height: 8, rx: 2, class: "track" }), s("rect", { width: Math.max(1, share * 100), height: 8, rx: 2, class: "fill" }));
}

/** Returns lots on a time axis from grant to expiry; the filled part of a bar is what remains. */
export function lotsAxis(lots, asOf) {
  const rows = lots.slice(0, 40);
  const begin = Math.min(...rows.map((lot) => Date.parse(lot.granted_at)), Date.parse(asOf));
  const end = Math.max(...rows.map((lot) => Date.parse(lot.expires_at)), Date.parse(asOf));
  const span = Math.max(end - begin, 1);
  const at = (instant) => ((Date.parse(instant) - begin) / span) * 100;
  const ticks = [0, 0.25, 0.5, 0.75, 1].map((part) => begin + part * span);
  const now = Math.min(100, Math.max(0, at(asOf)));
  const line = h("span", { class: "now", "aria-hidden": "true" });
  line.style.left = `${now}%`;
  const bars = rows.map((lot) => {
    const from = Math.max(0, at(lot.granted_at));
    const width = Math.max(0.6, at(lot.expires_at) - from);
    const full = lot.granted ? lot.remaining / lot.granted : 0;
    const fill = h("span", { class: "fill" });
    fill.style.width = `${full * 100}%`;
    const track = h("span", { class: `span ${lot.state}` }, fill);
    track.style.left = `${from}%`;
    track.style.width = `${width}%`;
    const text = `lot ${lot.lot}, ${lot.origin}${lot.plan ? ` of ${lot.plan}` : ""}: ${number(lot.remaining)} of ${number(lot.granted)} credits remain, ${lot.state}, ${dayOf(lot.granted_at)} to ${dayOf(lot.expires_at)}`;
    return h("li", {}, h("span", { class: "name" }, `lot ${lot.lot}`), h("span", { class: "hidden" }, text),
      h("span", { class: "lane", "aria-hidden": "true", title: text }, track), h("span", { class: "left", "aria-hidden": "true" }, `${number(lot.remaining)} / ${number(lot.granted)}`));
  });
  return h("figure", { class: "lots" },
    h("figcaption", {}, "From grant to expiry, in the order of spending. The filled part of a bar remains; the vertical line is the balance's time."),
    h("div", { class: "plot" }, h("div", { class: "over" }, line), h("ol", {}, bars)),
    h("div", { class: "axis", "aria-hidden": "true" }, ticks.map((tick) => h("span", {}, dayOf(tick)))),
    lots.length > rows.length && h("p", { class: "quiet" }, `First ${rows.length} of ${lots.length} lots; the table shows all.`));
}
