// A choice of one of a few ranges of time, beside a section's heading.

import { h } from "./dom.js";

/** Returns the choice; `choose` is called with the value of each range that is chosen. */
export function rangeChoice(name, ranges, chosen, choose) {
  return h("fieldset", { class: "ranges" }, h("legend", { class: "hidden" }, "Range"), ranges.map(([value, text]) =>
    h("label", {}, h("input", { type: "radio", name, value, checked: value === chosen, on: { change: () => choose(value) } }), h("span", {}, text))));
}
