// Small charts as inline SVG. Each has a text alternative; the tables beside them have the numbers.

import { h, s } from "./dom.js";

/** Returns a line chart. `label` is its text alternative; `at` holds the time of each value. */
export function sparkline(values, label, { width = 240, height = 36, at }) {
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
export function bar(share) {
  return s("svg", { class: "bar", viewBox: "0 0 100 8", width: 100, height: 8, "aria-hidden": "true", preserveAspectRatio: "none" },
    s("rect", { width: 100, height: 8, rx: 2, class: "track" }), s("rect", { width: Math.max(1, share * 100), height: 8, rx: 2, class: "fill" }));
}
