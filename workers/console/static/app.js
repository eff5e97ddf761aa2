// The shell: routes, sign-in state, and the light or dark theme.

import { currentSession, onSession, refreshSession, signOut } from "./api.js";
import { announce, h, link, show } from "./dom.js";
import { utc, zone } from "./format.js";
import { connect, disconnect } from "./live.js";
import { showNavigation, showSearchField } from "./navigation.js";
import { openSignIn } from "./dialogs.js";
import { showAccount } from "./views/account.js";
import { showDeadLetter } from "./views/dead_letter.js";
import { showDeadLetters } from "./views/dead_letters.js";
import { showLag } from "./views/lag.js";
import { showOperation, showOperations } from "./views/operations.js";
import { showOverview } from "./views/overview.js";
import { showRequest } from "./views/request.js";
import { showSearch } from "./views/search.js";
import { showTopic } from "./views/topic.js";
import { showTopics } from "./views/topics.js";

// Path pattern, view, and its name: the entry of the navigation, where there is one.
const ROUTES = [
  [/^\/?$/, showOverview, "Overview"],
  [/^\/lag$/, showLag, "Lag"],
  [/^\/letters$/, showDeadLetters, "Dead letters"],
  [/^\/letters\/(\d+)\/(\d+)$/, showDeadLetter, "Dead letters"],
  [/^\/account$/, showAccount, "Account"],
  [/^\/request$/, showRequest, "Request"],
  [/^\/operations$/, showOperations, "Operations"],
  [/^\/operations\/(\d+)$/, showOperation, "Operations"],
  [/^\/topics$/, showTopics, "Topics"],
  [/^\/topics\/([\w.-]+)$/, showTopic, "Topics"],
  [/^\/search$/, showSearch, "Search"],
];

const main = document.getElementById("main");
let viewAbort = null;
let isFirst = true;

function showView() {
  viewAbort?.abort();
  viewAbort = new AbortController();
  const [path, query] = (location.hash.slice(1) || "/").split("?");
  const parameters = new URLSearchParams(query ?? "");
  const found = ROUTES.map(([pattern, view, name]) => [pattern.exec(path), view, name]).find(([match]) => match);
  const name = found?.[2] ?? "Not found";
  showNavigation(name);
  document.title = `${name} · InMail console`;
  const heading = h("h1", { tabindex: -1 }, name);
  const body = h("div", { class: "view" });
  main.replaceChildren(heading, body);
  if (currentSession().role === "nobody") {
    show(body, h("div", { class: "card gate" }, h("p", {}, "Sign in with a token to read this console."),
      h("button", { type: "button", class: "primary", on: { click: () => openSignIn() } }, "Sign in")));
  } else if (found) {
    found[1]({ body, heading, parameters, path: found[0].slice(1), signal: viewAbort.signal });
  } else {
    show(body, h("p", {}, "There is no such view. ", link("#/", "Go to the overview")));
  }
  // Focus makes a screen reader announce the new view; the first view is read from the top anyway.
  if (!isFirst) heading.focus({ preventScroll: true });
  if (!isFirst) window.scrollTo(0, 0);
  isFirst = false;
}

function showIdentity(session) {
  const signedIn = session.csrf !== "";
  const button = signedIn
    ? h("button", { type: "button", "data-key": "sign-out", on: { click: () => signOut().then(() => announce("Signed out")) } }, "Sign out")
    : h("button", { type: "button", "data-key": "sign-in", on: { click: () => openSignIn() } }, "Sign in");
  const name = signedIn ? h("span", { class: "name" }, session.actor || "reader", h("span", { class: "quiet" }, ` · ${session.role}`)) : null;
  show(document.getElementById("identity"), name, button);
}

let role = null;
onSession((session) => {
  showIdentity(session);
  if (role === session.role) return;
  const before = role;
  role = session.role;
  if (role === "nobody") disconnect();
  else if (before === null || before === "nobody") connect();
  showView();
});

const theme = document.getElementById("theme");
theme.value = document.documentElement.dataset.theme ?? "auto";
theme.addEventListener("change", () => {
  if (theme.value === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme.value;
  localStorage.setItem("inmail-theme", theme.value);
});

// Fragments name views, so the skip link cannot use one: it sets the focus itself.
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  main.focus();
});

function showZone() {
  const line = document.getElementById("zone");
  line.textContent = `Times in ${zone}${new Date().getTimezoneOffset() === 0 ? "" : ` and UTC · now ${utc(Date.now())}`}`;
}

async function start() {
  showZone();
  showSearchField();
  setInterval(showZone, 1000);
  window.addEventListener("hashchange", () => {
    // An open dialog belongs to the previous view; one whose action runs closes by itself.
    for (const dialog of document.querySelectorAll("dialog[open]:not([closedby])")) dialog.close();
    showView();
  });
  for (;;) {
    try {
      await refreshSession();
      return;
    } catch (error) {
      main.replaceChildren(h("h1", {}, "InMail console"), h("div", { class: "card problem", role: "alert" }, h("p", {}, error.message)));
      await new Promise((resolve) => setTimeout(resolve, 3000));
    }
  }
}

start();
