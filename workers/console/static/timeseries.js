// Line and area charts over time, as SVG. One cursor line serves all charts of a group, by pointer, touch and keyboard.

import { h, s } from "./dom.js";
import { duration, short, timeOfDay, unitOf } from "./format.js";
import { timeTicks, valueTicks } from "./scale.js";

const HEIGHT = 168;
const EDGE = { top: 8, right: 8, bottom: 20, left: 54 };
const MOST_SERIES = 7;
const MIN_GAP_SECONDS = 40; // an unviewed console samples every 15 s, and a sample may take 8 s

/** Returns a group of charts whose cursor is at the same time in each of them. */
export function chartGroup() {
  const group = { at: null, cursors: [] };
  group.moveTo = (at) => {
    group.at = at;
    for (const showCursor of group.cursors) showCursor();
  };
  return group;
}

/**
 * Returns a chart with `element` and `update(data)`. The data: { from, to, bucket_seconds, times, series: [{ name, values }] }.
 * `empty` of the data, or of the options, is said where there is no series. A stacked chart shows parts of a whole; `format` returns a value as text: the axis has numbers alone, but for times (`timed`), and no fractions if `whole`.
 */
export function createChart(group, { title, hint, timed, format = duration, stacked, whole, empty = "none in this range" }) {
  const id = `chart-${title.toLowerCase().replace(/[^a-z]+/g, "-")}`;
  const legend = h("ul", { class: "legend" });
  const moment = h("p", { class: "moment" });
  const plot = h("div", { class: "plot", tabindex: 0, role: "slider", "aria-labelledby": id, "aria-orientation": "horizontal", "data-key": id });
  const element = h("figure", { class: "chart" }, h("figcaption", {}, h("h3", { id }, title), h("p", { class: "quiet" }, hint)), plot, h("div", { class: "reading" }, moment, legend));
  const colours = new Map(); // a name keeps its colour when others come and go
  let data = null;
  let cursor = null;
  let width = 0;

  const x = (at) => EDGE.left + ((at - data.from) / (data.to - data.from)) * (width - EDGE.left - EDGE.right);
  const colourOf = (name) => {
    if (!colours.has(name)) colours.set(name, (colours.size % 8) + 1);
    return `s${colours.get(name)}`;
  };

  function update(found) {
    data = { ...found, series: limitSeries(found.series) };
    draw();
  }

  function draw() {
    if (data === null || width === 0) return;
    const drawn = stacked ? stack(data.series) : data.series.map((each) => ({ ...each, tops: each.values }));
    const largest = Math.max(0, ...drawn.flatMap((each) => each.tops.filter((value) => value !== null)));
    const ticks = valueTicks(largest, whole, timed ? unitOf(largest)[0] : 1);
    const top = ticks[ticks.length - 1];
    const y = (value) => HEIGHT - EDGE.bottom - (value / top) * (HEIGHT - EDGE.top - EDGE.bottom);
    const right = width - EDGE.right;
    cursor = s("line", { class: "cursor", y1: EDGE.top, y2: HEIGHT - EDGE.bottom, visibility: "hidden" });
    plot.replaceChildren(s("svg", { width, height: HEIGHT, "aria-hidden": "true" },
      ticks.map((tick) => [s("line", { class: "grid", x1: EDGE.left, x2: right, y1: y(tick), y2: y(tick) }), s("text", { x: EDGE.left - 6, y: y(tick) + 4, "text-anchor": "end" }, (timed ? duration : short)(tick))]),
      timeTicks(data.from, data.to, right - EDGE.left).map(({ at, text }) => s("text", { x: x(at), y: HEIGHT - 4, "text-anchor": "middle" }, text)),
      drawn.map((each) => s("g", { class: `${stacked ? "area" : "line"} ${colourOf(each.name)}` }, segments(data, each.tops).map((part) => shape(part, each, y)))),
      cursor));
    showCursor();
  }

  function shape(part, each, y) {
    const points = part.map((index) => `${x(data.times[index]).toFixed(1)},${y(each.tops[index]).toFixed(1)}`);
    if (part.length === 1) return s("circle", { cx: x(data.times[part[0]]), cy: y(each.tops[part[0]]), r: 2 });
    if (!stacked) return s("polyline", { points: points.join(" ") });
    const bottom = [...part].reverse().map((index) => `${x(data.times[index]).toFixed(1)},${y(each.bottoms[index]).toFixed(1)}`);
    return s("polygon", { points: [...points, ...bottom].join(" ") });
  }

  function showCursor() {
    if (data === null || cursor === null) return;
    const isNow = group.at === null;
    const index = isNow ? data.times.length - 1 : nearest(data, group.at);
    cursor.setAttribute("visibility", isNow || index < 0 ? "hidden" : "visible");
    if (index >= 0) for (const name of ["x1", "x2"]) cursor.setAttribute(name, x(data.times[index]));
    moment.textContent = index < 0 ? `no data ${isNow ? "yet" : "at this time"}` : `${isNow ? "now, " : ""}${timeOfDay(data.times[index] * 1000)}`;
    const nothing = data.empty || empty;
    const rows = data.series.filter((each) => !each.rest || each.values[index]).map((each) => [each.name, index < 0 ? "–" : each.values[index] === null ? "unknown" : format(each.values[index])]);
    legend.replaceChildren(...(rows.length ? rows.map(([name, value]) => h("li", {}, h("span", { class: `key ${colourOf(name)}`, "aria-hidden": "true" }), h("span", {}, name), " ", h("b", {}, value))) : [h("li", { class: "quiet" }, nothing)]));
    for (const [name, value] of Object.entries({ min: data.from, max: data.to, now: index < 0 ? data.to : data.times[index] })) plot.setAttribute(`aria-value${name}`, value);
    plot.setAttribute("aria-valuetext", `${moment.textContent}: ${rows.map((row) => row.join(" ")).join(", ") || nothing}`);
  }

  function atPointer(event) {
    const share = (event.clientX - plot.getBoundingClientRect().left - EDGE.left) / (width - EDGE.left - EDGE.right);
    if (data !== null) group.moveTo(data.from + Math.min(1, Math.max(0, share)) * (data.to - data.from));
  }
  plot.addEventListener("pointermove", atPointer);
  plot.addEventListener("pointerdown", atPointer);
  plot.addEventListener("pointerleave", () => group.moveTo(null));
  plot.addEventListener("blur", () => group.moveTo(null));
  plot.addEventListener("keydown", (event) => {
    if (data === null || !data.times.length) return;
    const index = group.at === null ? data.times.length : Math.max(0, nearest(data, group.at));
    const to = { ArrowLeft: index - 1, ArrowRight: index + 1, PageUp: index + 10, PageDown: index - 10, Home: 0, End: data.times.length - 1 }[event.key];
    if (to === undefined) {
      if (event.key === "Escape") group.moveTo(null);
      return;
    }
    event.preventDefault();
    group.moveTo(data.times[Math.min(data.times.length - 1, Math.max(0, to))]);
  });
  new ResizeObserver(([entry]) => {
    width = Math.floor(entry.contentRect.width);
    draw();
  }).observe(plot);
  group.cursors.push(showCursor);
  return { element, update };
}

/** Returns the index of the time that is nearest, or -1 where there is none within a gap's length. */
function nearest(data, at) {
  let best = -1;
  data.times.forEach((time, index) => {
    if (best < 0 || Math.abs(time - at) < Math.abs(data.times[best] - at)) best = index;
  });
  return best >= 0 && Math.abs(data.times[best] - at) <= gapSeconds(data) ? best : -1;
}

const gapSeconds = (data) => Math.max(2.5 * data.bucket_seconds, MIN_GAP_SECONDS);

/** Returns runs of indexes with known values and no gap between them: what was not seen is not drawn. */
function segments(data, values) {
  const parts = [];
  values.forEach((value, index) => {
    if (value === null) return;
    const last = parts[parts.length - 1]?.at(-1);
    if (last !== undefined && data.times[index] - data.times[last] <= gapSeconds(data) && values.slice(last + 1, index).every((each) => each !== null)) parts[parts.length - 1].push(index);
    else parts.push([index]);
  });
  return parts;
}

/** Adds the tops and bottoms of stacked areas. */
function stack(series) {
  let below = null;
  return series.map((each) => {
    const bottoms = below ?? each.values.map(() => 0);
    below = each.values.map((value, index) => (value === null ? null : (bottoms[index] ?? 0) + value));
    return { ...each, bottoms, tops: below };
  });
}

/** Returns the first series, and the sum of the rest as one, which the legend has where there is any of it. */
function limitSeries(series) {
  if (series.length <= MOST_SERIES) return series;
  const rest = series.slice(MOST_SERIES - 1);
  const sums = rest[0].values.map((_, index) => (rest.some((each) => each.values[index] === null) ? null : rest.reduce((sum, each) => sum + each.values[index], 0)));
  return [...series.slice(0, MOST_SERIES - 1), { name: `${rest.length} others`, values: sums, rest: true }];
}
