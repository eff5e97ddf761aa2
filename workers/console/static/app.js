// The shell: which view is shown, who is signed in, light or dark.

import { onSession, refresh, signOut, who } from "./api.js";
import { h, link, say, show } from "./dom.js";
import { utc, zone } from "./format.js";
import { connect, disconnect } from "./live.js";
import { askToSignIn } from "./dialogs.js";
import { account } from "./views/account.js";
import { lag } from "./views/lag.js";
import { letter } from "./views/letter.js";
import { letters } from "./views/letters.js";
import { operation, operations } from "./views/operations.js";
import { overview } from "./views/overview.js";
import { request } from "./views/request.js";
import { topics } from "./views/topics.js";

// Path, its view, and under which name of the navigation it stands.
const ROUTES = [
  [/^\/?$/, overview, "Overview"],
  [/^\/lag$/, lag, "Lag"],
  [/^\/letters$/, letters, "Dead letters"],
  [/^\/letters\/(\d+)\/(\d+)$/, letter, "Dead letters"],
  [/^\/account$/, account, "Account"],
  [/^\/request$/, request, "Request"],
  [/^\/operations$/, operations, "Operations"],
  [/^\/operations\/(\d+)$/, operation, "Operations"],
  [/^\/topics$/, topics, "Topics"],
];
const VIEWS = [["#/", "Overview"], ["#/lag", "Lag"], ["#/letters", "Dead letters"], ["#/account", "Account"], ["#/request", "Request"], ["#/operations", "Operations"], ["#/topics", "Topics"]];

const main = document.getElementById("main");
let leave = null;
let first = true;

function enter() {
  leave?.abort();
  leave = new AbortController();
  const [path, query] = (location.hash.slice(1) || "/").split("?");
  const parameters = new URLSearchParams(query ?? "");
  const found = ROUTES.map(([pattern, view, name]) => [pattern.exec(path), view, name]).find(([match]) => match);
  const name = found?.[2] ?? "Not found";
  navigation(name);
  document.title = `${name} · InMail console`;
  const heading = h("h1", { tabindex: -1 }, name);
  const body = h("div", { class: "view" });
  main.replaceChildren(heading, body);
  if (who().role === "nobody") {
    show(body, h("div", { class: "card gate" }, h("p", {}, "Reading this console needs a token."),
      h("button", { type: "button", class: "primary", on: { click: () => askToSignIn() } }, "Sign in")));
  } else if (found) {
    found[1]({ body, heading, parameters, path: found[0].slice(1), signal: leave.signal });
  } else {
    show(body, h("p", {}, "There is no such view. ", link("#/", "To the overview")));
  }
  // A reader of the screen is told of the new view; at the first one it begins at the top anyway.
  if (!first) heading.focus({ preventScroll: true });
  if (!first) window.scrollTo(0, 0);
  first = false;
}

function navigation(current) {
  show(document.getElementById("views"), h("ul", {}, VIEWS.map(([href, name]) =>
    h("li", {}, link(href, name, name === current ? { "aria-current": "page" } : {})))));
  document.querySelector("#views [aria-current]")?.scrollIntoView({ block: "nearest", inline: "center" });
}

function identity(session) {
  const signedIn = session.csrf !== "";
  const act = signedIn
    ? h("button", { type: "button", "data-key": "sign-out", on: { click: () => signOut().then(() => say("Signed out")) } }, "Sign out")
    : h("button", { type: "button", "data-key": "sign-in", on: { click: () => askToSignIn() } }, "Sign in");
  const named = signedIn ? h("span", { class: "name" }, session.actor || "reader", h("span", { class: "quiet" }, ` · ${session.role}`)) : null;
  show(document.getElementById("who"), named, act);
}

let role = null;
onSession((session) => {
  identity(session);
  if (role === session.role) return;
  const before = role;
  role = session.role;
  if (role === "nobody") disconnect();
  else if (before === null || before === "nobody") connect();
  enter();
});

const theme = document.getElementById("theme");
theme.value = document.documentElement.dataset.theme ?? "auto";
theme.addEventListener("change", () => {
  if (theme.value === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme.value;
  localStorage.setItem("inmail-theme", theme.value);
});

// A fragment names a view here, so the skip link moves the focus by itself.
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  main.focus();
});

function zoneLine() {
  const where = document.getElementById("zone");
  where.textContent = `Times in ${zone}${new Date().getTimezoneOffset() === 0 ? "" : ` and UTC · now ${utc(Date.now())}`}`;
}

async function start() {
  zoneLine();
  setInterval(zoneLine, 1000);
  window.addEventListener("hashchange", () => {
    // What a dialog asks is about the view that it stands before.
    for (const each of document.querySelectorAll("dialog[open]")) each.close();
    enter();
  });
  for (;;) {
    try {
      await refresh();
      return;
    } catch (error) {
      main.replaceChildren(h("h1", {}, "InMail console"), h("div", { class: "card problem", role: "alert" }, h("p", {}, error.message)));
      await new Promise((resolve) => setTimeout(resolve, 3000));
    }
  }
}

start();
