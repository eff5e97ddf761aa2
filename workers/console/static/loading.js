// Loads a view's data: shows a spinner, then the data or an error. Earlier data stays until new data arrives.

import { get } from "./api.js";
import { announce, formatCode, h, show } from "./dom.js";

const SELECTED_MS = 1000; // until data that came while text was selected is tried again

/** Loads a path into `body`. Returns a function that reloads quietly: after an error, earlier data stays. */
export function startLoader(body, signal, path, parameters, draw) {
  let before = null;
  let busy = false;
  let waiting;
  const problem = h("div", { class: "notice" });
  const content = h("div", {});
  show(body, problem, content);

  /** Draws data, or tries again later while text in the view is selected: a drawing would drop the selection. */
  function drawData(data, now) {
    clearTimeout(waiting);
    if (signal.aborted || now === before) return;
    if (show(content, draw(data))) before = now;
    else waiting = setTimeout(() => drawData(data, now), SELECTED_MS);
  }

  async function load(quietly = false) {
    if (busy || signal.aborted) return;
    busy = true;
    if (!quietly) show(content, loadingLine());
    try {
      const data = await get(path, typeof parameters === "function" ? parameters() : parameters, signal);
      show(problem);
      const now = JSON.stringify(data, (name, value) => (name === "as_of" && data.chosen === "clock" && value === data.as_of ? null : value));
      drawData(data, now);
      if (!quietly) announce("Loaded");
    } catch (error) {
      if (error.name === "AbortError" || signal.aborted) return;
      showError(problem, error, () => load(before !== null));
      if (before === null) show(content);
    } finally {
      busy = false;
    }
  }

  load();
  return () => load(true);
}

export function loadingLine() {
  return h("p", { class: "loading" }, h("span", { class: "spinner", "aria-hidden": "true" }), " Loading …");
}

/** Returns a card with an error and, where `retry` is given, a button that tries again. */
export function errorCard(error, retry) {
  return h("div", { class: "card problem", role: "alert" }, h("p", {}, formatCode(error.message)),
    retry && h("button", { type: "button", on: { click: retry } }, "Try again"));
}

/** Shows an error in a container. The same as before stays as it is: a screen reader says each new alert. */
export function showError(container, error, retry) {
  const card = errorCard(error, retry);
  if (!container.firstElementChild?.isEqualNode(card)) show(container, card);
}

/** Calls `reload` at an interval while the view is shown and the page is visible. */
export function reloadEvery(seconds, signal, reload) {
  const timer = setInterval(() => { if (!document.hidden) reload(); }, seconds * 1000);
  signal.addEventListener("abort", () => clearInterval(timer));
}
