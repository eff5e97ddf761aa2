// Axes: round numbers for values, and clock times or days for instants. Times are in seconds since the epoch.

import { dayOf } from "./format.js";

const STEPS = [60, 120, 180, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400];
const DAYS = [1, 2, 3, 5, 7, 10, 14, 21, 28, 42, 56, 70, 91, 182, 364, 728];
const clock = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit" });

/** Returns the values to mark on an axis that begins at zero and holds `largest`: about three round steps of a `unit`. */
export function valueTicks(largest, whole = false, unit = 1) {
  if (!(largest > 0)) return [0, 1];
  const rough = largest / unit / 3;
  const size = 10 ** Math.floor(Math.log10(rough));
  const step = Math.max([1, 2, 5, 10].find((factor) => factor * size >= rough * 0.999) * size, whole ? 1 : 0);
  const count = Math.ceil(largest / unit / step - 1e-9);
  return Array.from({ length: count + 1 }, (_, index) => Number((index * step * unit).toPrecision(12)));
}

/**
 * Returns the ticks of a time axis that is `width` pixels wide, each with its text, at full minutes, hours or days of the
 * viewer's zone. Ticks whose text would cross an edge of the axis are left out.
 */
export function timeTicks(from, to, width) {
  const inside = (tick) => Math.min(tick.at - from, to - tick.at) >= (tick.text.length * 3 * (to - from)) / width;
  return allTicks(from, to, width).filter(inside);
}

function allTicks(from, to, width) {
  const most = Math.max(2, Math.floor(width / 76));
  const step = STEPS.find((each) => (to - from) / each <= most);
  if (step === undefined || step >= 86400) return dayTicks(from, to, Math.max(2, Math.floor(width / 80)));
  const offset = new Date(from * 1000).getTimezoneOffset() * 60;
  const first = Math.ceil((from - offset) / step) * step + offset;
  const ticks = [];
  for (let at = first; at <= to; at += step) ticks.push({ at, text: clock.format(new Date(at * 1000)) });
  return ticks;
}

function dayTicks(from, to, most) {
  const days = (to - from) / 86400;
  const step = DAYS.find((each) => days / each <= most) ?? Math.ceil(days / most);
  const day = new Date(from * 1000);
  day.setHours(24, 0, 0, 0); // the first midnight of the viewer's zone
  const ticks = [];
  let year = new Date().getFullYear();
  for (; day.getTime() / 1000 <= to; day.setDate(day.getDate() + step)) {
    ticks.push({ at: day.getTime() / 1000, text: day.getFullYear() === year ? dayOf(day).slice(0, -5) : dayOf(day) });
    year = day.getFullYear(); // a year is told where it begins
  }
  return ticks;
}

