// Elements from data. Text only ever becomes text nodes, so the content of a message can never become markup.

const SVG = "http://www.w3.org/2000/svg";

/** Returns an element. Attributes: `on` holds listeners; true sets an empty value; null and false leave the attribute out. */
export function h(name, attributes = {}, ...children) {
  return fillElement(document.createElement(name), attributes, children);
}

/** Returns an SVG element, as `h` does. */
export function s(name, attributes = {}, ...children) {
  return fillElement(document.createElementNS(SVG, name), attributes, children);
}

function fillElement(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "on") {
      for (const [event, listener] of Object.entries(value)) element.addEventListener(event, listener);
    } else {
      element.setAttribute(name, value === true ? "" : String(value));
    }
  }
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false) continue;
    element.append(child instanceof Node ? child : document.createTextNode(String(child)));
  }
  return element;
}

/** Makes a form open a view with the form's values as parameters, and returns the form. */
export function openOnSubmit(view, form) {
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const values = new URLSearchParams();
    for (const [name, value] of new FormData(form)) if (value) values.set(name, value.trim());
    location.hash = `#/${view}?${values}`;
  });
  return form;
}

/**
 * Shows `nodes` in a container, and returns true. Keeps focus, table scroll and open details; while text in the container
 * is selected, does nothing and returns false.
 */
export function show(container, ...nodes) {
  const selection = document.getSelection();
  if (selection && !selection.isCollapsed && container.contains(selection.anchorNode)) return false;
  const focused = container.contains(document.activeElement) ? focusKey(document.activeElement) : undefined;
  const scrolled = [...container.querySelectorAll(".scroll")].map((each) => each.scrollLeft);
  const open = new Set([...container.querySelectorAll("details[open]")].map((each) => each.dataset.key));
  container.replaceChildren(...nodes.flat(Infinity).filter((node) => node instanceof Node || typeof node === "string"));
  [...container.querySelectorAll(".scroll")].forEach((each, index) => { each.scrollLeft = scrolled[index] ?? 0; });
  for (const each of container.querySelectorAll("details")) if (open.has(each.dataset.key)) each.open = true;
  if (focused !== undefined) {
    const found = container.querySelector(`[data-key="${CSS.escape(focused)}"]`);
    (found?.matches("details") ? found.querySelector("summary") : found)?.focus({ preventScroll: true });
  }
  return true;
}

/** Returns the key of an element that has the focus; a summary has that of its details. */
const focusKey = (element) => (element.matches("summary") ? element.parentElement : element).dataset.key;

/**
 * Returns a table that scrolls sideways where it is too wide; on a narrow screen each row is a card with the headings as
 * labels. The roles are explicit because a table that is laid out as cards loses them. Columns: [heading, function of a
 * row, class].
 */
export function table(label, columns, rows, { empty = "None.", key = null } = {}) {
  if (!rows.length) return h("p", { class: "empty" }, empty);
  const heads = columns.map(([heading, , kind]) => h("th", { scope: "col", role: "columnheader", class: kind }, heading));
  const body = rows.map((row, index) => h("tr", { role: "row", ...(key ? { "data-row": key(row) } : {}) },
    columns.map(([heading, cell, kind], column) => h(column ? "td" : "th", { class: kind, "data-label": heading, ...(column ? { role: "cell" } : { scope: "row", role: "rowheader" }) }, h("div", {}, cell(row, index))))));
  return h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": `${label}, table`, "data-key": `table ${label}` },
    h("table", { role: "table" }, h("caption", { class: "hidden" }, label), h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, heads)), h("tbody", { role: "rowgroup" }, body)));
}

/** Returns a text of ours with the parts between backticks as code. */
export function formatCode(text) {
  return text.split("`").map((part, index) => (index % 2 ? h("code", {}, part) : part));
}

/** Returns a link inside the console. */
export function link(href, text, attributes = {}) {
  return h("a", { href, "data-key": `${href} ${text}`, ...attributes }, text);
}

/** Returns a status as a shape and a word, so that no meaning depends on colour. */
export function status(kind, text) {
  const shapes = { ok: "●", warning: "▲", failed: "■", unknown: "○", running: "◆" };
  return h("span", { class: `status ${kind}` }, h("span", { "aria-hidden": "true" }, shapes[kind] ?? "○"), ` ${text}`);
}

/** Returns a card that names servers that did not answer; nothing where all did. */
export function silentServers(errors = []) {
  return errors.length > 0 && h("p", { class: "card" }, status("warning", "Incomplete"), ` What only these servers know is missing: ${errors.join("; ")}`);
}

/** Returns a section with its heading. */
export function section(title, ...children) {
  const id = `s-${title.toLowerCase().replace(/[^a-z]+/g, "-")}`;
  return h("section", { "aria-labelledby": id, class: "card" }, h("h2", { id }, title), ...children);
}

/** Returns a list of facts, each a name and a value; facts without a value are left out. */
export function facts(...pairs) {
  return h("dl", { class: "facts" }, pairs.filter(([, value]) => value !== null && value !== undefined && value !== "")
    .map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));
}

/** Announces a text to screen readers. */
export function announce(text) {
  const region = document.getElementById("announcement");
  if (region.textContent !== text) region.textContent = text;
}
