// How a view gets its data: loading, then what was found, or why not. What was shown before stays until there is more.

import { read } from "./api.js";
import { coded, h, say, show } from "./dom.js";

/** Shows what a read says in `body`. Returns a function that reads again, quietly: an error leaves what is there. */
export function loader(body, signal, path, parameters, draw) {
  let before = null;
  let busy = false;
  const problem = h("div", { class: "notice" });
  const content = h("div", {});
  show(body, problem, content);

  async function load(quietly = false) {
    if (busy || signal.aborted) return;
    busy = true;
    if (!quietly) show(content, loading());
    try {
      const found = await read(path, typeof parameters === "function" ? parameters() : parameters, signal);
      show(problem);
      const now = JSON.stringify(found, (name, value) => (name === "as_of" && found.chosen === "clock" && value === found.as_of ? null : value));
      if (now !== before) show(content, draw(found));
      before = now;
      if (!quietly) say("Loaded");
    } catch (error) {
      if (error.name === "AbortError" || signal.aborted) return;
      show(problem, failed(error, () => load(before !== null)));
      if (before === null) show(content);
    } finally {
      busy = false;
    }
  }

  load();
  return () => load(true);
}

export function loading() {
  return h("p", { class: "loading" }, h("span", { class: "spinner", "aria-hidden": "true" }), " Loading …");
}

/** An error with a way to try again. */
export function failed(error, again) {
  return h("div", { class: "card problem", role: "alert" }, h("p", {}, coded(error.message)),
    again && h("button", { type: "button", on: { click: again } }, "Try again"));
}

/** Calls `again` every so many seconds while the view is shown and the page is looked at. */
export function every(seconds, signal, again) {
  const timer = setInterval(() => { if (!document.hidden) again(); }, seconds * 1000);
  signal.addEventListener("abort", () => clearInterval(timer));
}
