// Numbers with their units, and instants in the viewer's zone and in UTC.

import { h } from "./dom.js";

const whole = new Intl.NumberFormat("en");
const fine = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });
const small = new Intl.NumberFormat("en", { maximumSignificantDigits: 2 });
const compact = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 });
const local = new Intl.DateTimeFormat("en-GB", { day: "2-digit", month: "short", year: "numeric", hour: "2-digit", minute: "2-digit", second: "2-digit" });
const clock = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const day = new Intl.DateTimeFormat("en-GB", { day: "2-digit", month: "short", year: "numeric" });

export const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
const isUtc = (at) => at.getTimezoneOffset() === 0; // of the instant: London has UTC in winter only

export const number = (value) => (value === null || value === undefined ? "–" : whole.format(value));

/** Returns a number of bytes with its unit. */
export function bytes(value) {
  if (value === null || value === undefined) return "–";
  const unit = Math.min(Math.floor(Math.log2(Math.max(value, 1)) / 10), 4);
  return `${unit ? fine.format(value / 1024 ** unit) : whole.format(value)} ${["bytes", "KiB", "MiB", "GiB", "TiB"][unit]}`;
}

/** Returns a number in few characters, such as 12.5K. */
export const short = (value) => (value === null || value === undefined ? "–" : compact.format(value));

export function count(value, one, many = `${one}s`) {
  return `${number(value)} ${Math.abs(value) === 1 ? one : many}`;
}

export function rate(value, unit = "records/s") {
  if (value === null || value === undefined) return "–";
  return `${value >= 100 ? whole.format(Math.round(value)) : value < 1 ? small.format(value) : fine.format(value)} ${unit}`;
}

export function seconds(value) {
  if (value === null || value === undefined) return "–";
  if (value < 60) return `${fine.format(value)} s`;
  if (value < 3600) return `${Math.floor(value / 60)} min ${Math.floor(value % 60)} s`;
  if (value < 86400) return `${Math.floor(value / 3600)} h ${Math.floor((value % 3600) / 60)} min`;
  return `${Math.floor(value / 86400)} d ${Math.floor((value % 86400) / 3600)} h`;
}

const UNITS = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"], [0.001, "ms"]];
/** Returns the unit of time that suits so many seconds, in seconds, and its name. */
export const unitOf = (value) => UNITS.find(([unit]) => value >= unit) ?? UNITS[value ? 4 : 3];

/** Returns seconds in few characters. */
export function duration(value) {
  if (value === null || value === undefined) return "–";
  const [unit, name] = unitOf(value);
  return `${compact.format(value / unit)} ${name}`;
}

export const percent = (share) => (share > 0 && share < 0.001 ? "< 0.1 %" : `${fine.format(share * 100)} %`);

export const utc = (value) => `${new Date(value).toISOString().slice(0, 19).replace("T", " ")} UTC`;

/** Returns an instant in the viewer's zone, followed by UTC, with the UTC day where it differs. */
export function time(value) {
  if (!value) return "–";
  const at = new Date(value);
  if (isUtc(at)) return h("time", { datetime: at.toISOString() }, h("span", {}, `${local.format(at).replace(",", "")} UTC`));
  const inUtc = at.getDate() === at.getUTCDate() ? utc(at).slice(11) : utc(at);
  return h("time", { datetime: at.toISOString() }, h("span", {}, local.format(at).replace(",", "")), " ", h("span", { class: "utc" }, inUtc));
}

export const timeOfDay = (value) => clock.format(new Date(value));
export const dayOf = (value) => day.format(new Date(value));

/** Returns a code or a field's name as words. */
export const words = (text) => (text === null || text === undefined ? "–" : String(text).replaceAll("_", " "));
