// The time series of the overview: flow, outcomes, latency, lag and dead letters, over a chosen range.

import { get } from "../api.js";
import { h, section, show } from "../dom.js";
import { duration, rate, short, words } from "../format.js";
import { subscribe } from "../live.js";
import { showError } from "../loading.js";
import { rangeChoice } from "../ranges.js";
import { chartGroup, createChart } from "../timeseries.js";

const RANGES = [["15m", "15 min"], ["6h", "6 h"], ["24h", "24 h"]];
const RELOAD_MS = { "15m": 4000, "6h": 20000, "24h": 60000 };

/** Returns a section with the charts. It loads the range again while the view is shown. */
export function trendsSection(signal) {
  let range = localStorage.getItem("inmail-range") ?? "15m";
  if (!(range in RELOAD_MS)) range = "15m";
  let loadedAt = 0;
  let busy = false;
  const group = chartGroup();
  const charts = CHARTS.map(([options, select]) => [createChart(group, options), select, options.timed]);
  const problem = h("div", { class: "notice" });
  const note = h("p", { class: "quiet" });
  const choices = rangeChoice("range", RANGES, range, (value) => {
    range = value;
    localStorage.setItem("inmail-range", value);
    loadedAt = 0;
    load();
  });

  async function load() {
    if (busy || document.hidden || Date.now() - loadedAt < RELOAD_MS[range]) return;
    busy = true;
    const wanted = range;
    try {
      const found = await get("/api/history", { range: wanted }, signal);
      if (wanted !== range) return; // another was chosen meanwhile
      loadedAt = Date.now();
      show(problem, found.problems.map((text) => h("p", { class: "problem-line" }, text)));
      note.textContent = `A time without samples is a gap. ${found.kept ? "Kept over a restart of the console." : "Kept while this console runs: INMAIL_CONSOLE_HISTORY_FILE keeps it over a restart."}`;
      for (const [chart, select, isTimed] of charts) chart.update({ ...found, series: select(found), empty: isTimed ? found.unmeasured : "" });
    } catch (error) {
      if (error.name !== "AbortError") showError(problem, error, null);
    } finally {
      busy = false;
      if (wanted !== range) load();
    }
  }

  signal.addEventListener("abort", subscribe(load));
  load();
  return section("Over time", choices, problem, h("div", { class: "charts" }, charts.map(([chart]) => chart.element)), note);
}

const named = (columns, nameOf = (name) => name, change = (value) => value) =>
  Object.entries(columns).map(([name, values]) => ({ name: nameOf(name), values: values.map((value) => (value === null ? null : change(value))) }));
const perSecond = (value) => rate(value, "/s");
const groupName = (name) => name.replace(/^inmail-/, "");

const CHARTS = [
  [{ title: "Flow", hint: "records a second", format: perSecond },
    (found) => [...named(found.rates.came_in, () => "in"), ...named(found.rates.decided, () => "decided"), ...named(found.rates.answered, () => "answered")]],
  [{ title: "Outcomes", hint: "results a second, by code", format: perSecond, stacked: true }, (found) => named(found.rates.outcomes, words)],
  [{ title: "Latency", hint: "from a record's broker time to its answer's", timed: true, empty: "no answers in this range" },
    (found) => (found.latency_seconds.p50?.some((value) => value !== null) ? named(found.latency_seconds) : [])],
  [{ title: "Lag", hint: "age of the oldest unread record, by group", timed: true }, (found) => named(found.lag_seconds, groupName)],
  [{ title: "Unread", hint: "records, by group", format: short, whole: true }, (found) => named(found.unread, groupName)],
  [{ title: "Dead letters", hint: "a minute, by reason", format: (value) => `${short(value)} /min`, stacked: true },
    (found) => named(found.rates.dead_letters, words, (value) => value * 60)],
];
