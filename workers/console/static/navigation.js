// The navigation with its counts, and the search field of every view.

import { h, link, openOnSubmit, show } from "./dom.js";
import { count, short } from "./format.js";
import { subscribe } from "./live.js";

// Path, name, and the name of the view's count.
const VIEWS = [["#/", "Overview"], ["#/lag", "Lag", "lag"], ["#/letters", "Dead letters", "dead_letters"], ["#/account", "Account"], ["#/request", "Request"], ["#/operations", "Operations", "operations"], ["#/topics", "Topics"]];

const MEANINGS = {
  lag: (n) => `${count(n, "group")} not OK`,
  dead_letters: (n) => `${count(n, "dead letter")} in the last hour`,
  operations: (n) => `${count(n, "operation")} running`,
};

const badges = Object.fromEntries(Object.keys(MEANINGS).map((name) => [name, h("span", { class: `badge ${name}`, hidden: true })]));

/** Shows the views, with the current one marked. */
export function showNavigation(current) {
  show(document.getElementById("views"), h("ul", {}, VIEWS.map(([href, name, counted]) =>
    h("li", {}, h("a", { href, "data-key": `${href} ${name}`, ...(name === current ? { "aria-current": "page" } : {}) }, name, counted && badges[counted])))));
}

subscribe((sample) => {
  for (const [name, n] of Object.entries(sample.counts ?? {})) {
    const badge = badges[name];
    badge.hidden = n === 0;
    badge.title = MEANINGS[name](n);
    badge.replaceChildren(h("span", { "aria-hidden": "true" }, short(n)), h("span", { class: "hidden" }, `, ${MEANINGS[name](n)}`));
  }
});

/** Shows the search field. The key `/` goes there from anywhere but a field. */
export function showSearchField() {
  const field = h("input", { id: "search", name: "q", type: "search", maxlength: 1000, spellcheck: "false", autocomplete: "off", autocapitalize: "off", placeholder: "Account, request, event, dead letter ( / )", "aria-keyshortcuts": "/", required: true });
  const form = openOnSubmit("search", h("form", { class: "find", role: "search", "aria-label": "Search everything" }, h("label", { class: "hidden", for: "search" }, "Account, request or event ID, or dead letter"), field));
  form.addEventListener("submit", () => { field.value = ""; });
  document.getElementById("find").replaceChildren(form);
  document.addEventListener("keydown", (event) => {
    if (event.key !== "/" || event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select, textarea, dialog")) return;
    event.preventDefault();
    field.focus();
  });
}
