// An account's balance over time: a step line, marks for what changed it, and a cursor that reads both.

import { h, s } from "./dom.js";
import { count, number, short, time } from "./format.js";
import { timeTicks, valueTicks } from "./scale.js";

const KINDS = [["granted", "Granted"], ["sent", "Sent"], ["returned", "Returned"], ["taken", "Taken"], ["expired", "Expired"], ["refused", "Refused"]];
const PLOT = 150;
const ROW = 16;
const EDGE = { top: 8, right: 8, left: 62 };
const NEAR_PIXELS = 5;
const at = (text) => Date.parse(text) / 1000;

/** Returns the chart of an account's balance, with `found` as `/api/account/balance` answers it. A chart that takes another's place goes on with its cursor. */
export function balanceChart(found, cursorState = { at: null }) {
  const data = {
    from: at(found.from), to: at(found.to), now: at(found.as_of),
    points: found.points.map((point) => ({ at: at(point.at), balance: point.balance })),
    changes: found.changes.map((change) => ({ ...change, seconds: at(change.at) })).sort((one, other) => one.seconds - other.seconds),
  };
  const rows = KINDS.filter(([kind]) => data.changes.some((change) => change.kind === kind));
  const bottom = EDGE.top + PLOT;
  const height = bottom + 8 + rows.length * ROW + 22;
  const plot = h("div", { class: "plot balance", tabindex: 0, role: "slider", "aria-label": "Balance over time", "data-key": "balance-chart" });
  plot.style.height = `${height}px`;
  const reading = h("p", { class: "reading" });
  let width = 0;
  let cursor = null;
  const x = (seconds) => EDGE.left + ((seconds - data.from) / (data.to - data.from)) * (width - EDGE.left - EDGE.right);
  const right = () => width - EDGE.right;

  function draw() {
    const ticks = valueTicks(Math.max(...data.points.map((point) => point.balance), 1), true);
    const y = (value) => bottom - (value / ticks[ticks.length - 1]) * PLOT;
    const past = data.points.filter((point) => point.at <= data.now);
    const coming = [{ at: data.now, balance: past.at(-1)?.balance ?? 0 }, ...data.points.filter((point) => point.at > data.now)];
    cursor = s("line", { class: "cursor", y1: EDGE.top, y2: height - 22, visibility: "hidden" });
    plot.replaceChildren(s("svg", { width, height, "aria-hidden": "true" },
      ticks.map((tick) => [s("line", { class: "grid", x1: EDGE.left, x2: right(), y1: y(tick), y2: y(tick) }), s("text", { x: EDGE.left - 6, y: y(tick) + 4, "text-anchor": "end" }, short(tick))]),
      timeTicks(data.from, data.to, right() - EDGE.left).map((tick) => s("text", { x: x(tick.at), y: height - 5, "text-anchor": "middle" }, tick.text)),
      s("path", { class: "held", d: `${steps(past, data.now, x, y)} V${bottom} H${x(past[0]?.at ?? data.now)} Z` }),
      s("path", { class: "past", d: steps(past, data.now, x, y) }), s("path", { class: "coming", d: steps(coming, data.to, x, y) }),
      rows.map(([kind, name], row) => marks(kind, name, bottom + 8 + row * ROW)),
      s("line", { class: "now", x1: x(data.now), x2: x(data.now), y1: EDGE.top, y2: height - 22 }), cursor));
    showCursor();
  }

  function marks(kind, name, top) {
    return s("g", { class: `marks ${kind}` }, s("text", { x: EDGE.left - 6, y: top + 11, "text-anchor": "end" }, name), s("line", { class: "grid", x1: EDGE.left, x2: right(), y1: top + 7, y2: top + 7 }),
      data.changes.filter((change) => change.kind === kind).map((change) => s("rect", { x: x(change.seconds) - 1.5, y: top + 2, width: 3, height: 10, rx: 1 })));
  }

  function showCursor() {
    const seconds = cursorState.at ?? data.now;
    if (cursor !== null) {
      cursor.setAttribute("visibility", cursorState.at === null ? "hidden" : "visible");
      for (const name of ["x1", "x2"]) cursor.setAttribute(name, x(seconds));
    }
    const point = data.points.filter((each) => each.at <= seconds).at(-1);
    const near = (NEAR_PIXELS / Math.max(width - EDGE.left - EDGE.right, 1)) * (data.to - data.from);
    const changed = KINDS.map(([kind, name]) => [name, data.changes.filter((each) => each.kind === kind && Math.abs(each.seconds - seconds) <= near)])
      .filter(([, each]) => each.length && cursorState.at !== null).map(([name, each]) => describe(name, each));
    const balance = `${count(point?.balance ?? 0, "credit")}${seconds > data.now ? ", if nothing is sent or granted" : ""}`;
    reading.replaceChildren(h("span", { class: "moment" }, cursorState.at === null ? "now, " : "", time(seconds * 1000)), h("b", {}, balance), ...changed.map((text) => h("span", {}, text)));
    for (const [name, value] of Object.entries({ min: data.from, max: data.to, now: Math.round(seconds) })) plot.setAttribute(`aria-value${name}`, value);
    plot.setAttribute("aria-valuetext", reading.textContent);
  }

  function moveTo(seconds) {
    cursorState.at = seconds === null ? null : Math.min(data.to, Math.max(data.from, seconds));
    showCursor();
  }
  const atPointer = (event) => moveTo(data.from + ((event.clientX - plot.getBoundingClientRect().left - EDGE.left) / (width - EDGE.left - EDGE.right)) * (data.to - data.from));
  plot.addEventListener("pointermove", atPointer);
  plot.addEventListener("pointerdown", atPointer);
  for (const name of ["pointerleave", "blur"]) plot.addEventListener(name, () => moveTo(null));
  plot.addEventListener("keydown", (event) => {
    // Each press goes to the next instant at which something happened.
    const instants = [...new Set([...data.points.map((point) => point.at), ...data.changes.map((change) => change.seconds), data.now])].sort((one, other) => one - other);
    const here = cursorState.at ?? data.now;
    const to = { ArrowLeft: instants.filter((each) => each < here).at(-1), ArrowRight: instants.find((each) => each > here), Home: instants[0], End: instants.at(-1) }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    moveTo(to);
  });
  showCursor();
  new ResizeObserver(([entry]) => {
    width = Math.floor(entry.contentRect.width);
    draw();
  }).observe(plot);
  return h("figure", { class: "chart" }, plot, reading);
}

function describe(name, changes) {
  const sum = (field) => changes.reduce((total, each) => total + each[field], 0);
  return `${name} ${sum("credits") ? count(sum("credits"), "credit") : number(sum("count"))}${sum("count") > 1 && sum("credits") ? ` in ${number(sum("count"))}` : ""}`;
}

/** Returns a step line: each balance holds until the next point. */
function steps(points, end, x, y) {
  if (!points.length) return "M0 0";
  const [first, ...rest] = points;
  return `M${x(first.at).toFixed(1)} ${y(first.balance).toFixed(1)} ${rest.map((point) => `H${x(point.at).toFixed(1)} V${y(point.balance).toFixed(1)}`).join(" ")} H${x(end).toFixed(1)}`;
}
