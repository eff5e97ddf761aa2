// Dialogs for signing in and for confirming actions. They are native, so they keep the focus and close with Escape.

import { currentSession, isOperator, post, signIn } from "./api.js";
import { announce, facts, h, silentServers } from "./dom.js";
import { count, number, seconds, words } from "./format.js";

let lastId = 0;

function openDialog(title, ...children) {
  const id = `dialog-${(lastId += 1)}`;
  const problem = h("p", { class: "problem-line", role: "alert" });
  const dialog = h("dialog", { "aria-labelledby": id }, h("h2", { id }, title), ...children, problem);
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
  return { dialog, problem };
}

function buttonRow(text, close, attributes = {}) {
  return h("div", { class: "buttons" },
    h("button", { type: "button", on: { click: close } }, "Cancel"),
    h("button", { type: "submit", class: "primary", ...attributes }, text));
}

function labelledField(label, input, hint) {
  const id = `field-${(lastId += 1)}`;
  input.id = id;
  if (hint) input.setAttribute("aria-describedby", `${id}-hint`);
  return h("div", { class: "field" }, h("label", { for: id }, label), input, hint && h("p", { class: "quiet", id: `${id}-hint` }, hint));
}

/**
 * Runs a form's action and closes the dialog; after an error, the dialog stays open and shows the error. While the action runs
 * the dialog cannot be closed, as the action would go on; `harmless`: it can, as the action changes nothing.
 */
function onSubmit(form, dialog, problem, run, { harmless = false } = {}) {
  const buttons = form.querySelectorAll(harmless ? "[type=submit]" : ".buttons button");
  const setBusy = (isBusy) => {
    for (const button of buttons) button.disabled = isBusy;
    if (isBusy && !harmless) dialog.setAttribute("closedby", "none");
    else dialog.removeAttribute("closedby");
  };
  // For browsers that do not know `closedby`; alone it is not enough: a second Escape closes a dialog that refused the first.
  dialog.addEventListener("cancel", (event) => { if (dialog.hasAttribute("closedby")) event.preventDefault(); });
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    setBusy(true);
    problem.textContent = "";
    try {
      await run();
      dialog.close();
    } catch (error) {
      problem.textContent = error.message;
    } finally {
      setBusy(false);
    }
  });
}

/** Opens the sign-in dialog. Resolves to the session, or to null if the dialog was cancelled. */
export function openSignIn() {
  const token = h("input", { type: "password", required: true, autocomplete: "current-password", spellcheck: "false" });
  const name = h("input", { type: "text", autocomplete: "username", maxlength: 100 });
  const note = currentSession().may_act_at_all ? "The operator's token allows actions; the reader's token allows reading." : "This console has no operator's token, so it allows no actions.";
  const form = h("form", {}, h("p", {}, note), labelledField("Token", token),
    labelledField("Your name", name, "Recorded with your actions. Required for actions."), buttonRow("Sign in", () => dialog.close()));
  const { dialog, problem } = openDialog("Sign in", form);
  return new Promise((resolve) => {
    let session = null;
    onSubmit(form, dialog, problem, async () => {
      session = await signIn(token.value, name.value);
      announce(`Signed in as ${session.role}`);
    });
    dialog.addEventListener("close", () => resolve(session));
  });
}

async function requireOperator() {
  if (!isOperator()) await openSignIn();
  return isOperator();
}

function reasonInput() {
  return h("input", { type: "text", required: true, maxlength: 500 });
}

/** Asks for a reason and confirmation, then runs the action with the reason. Resolves to the result, or null. */
export async function confirmWithReason(title, text, action, run) {
  if (!(await requireOperator())) return null;
  const reason = reasonInput();
  const form = h("form", {}, h("p", {}, text), labelledField("Reason", reason, "Recorded with the operation and your name."), buttonRow(action, () => dialog.close()));
  const { dialog, problem } = openDialog(title, form);
  return new Promise((resolve) => {
    let result = null;
    onSubmit(form, dialog, problem, async () => { result = await run(reason.value); });
    dialog.addEventListener("close", () => resolve(result));
  });
}

/** Asks for confirmation, then runs the action. Resolves to the result, or null. */
export async function confirm(title, text, action, run) {
  if (!(await requireOperator())) return null;
  const form = h("form", {}, h("p", {}, text), buttonRow(action, () => dialog.close()));
  const { dialog, problem } = openDialog(title, form);
  return new Promise((resolve) => {
    let result = null;
    onSubmit(form, dialog, problem, async () => { result = await run(); });
    dialog.addEventListener("close", () => resolve(result));
  });
}

/** Asks for the options of a redrive, shows the plan, asks for confirmation, and starts the redrive. */
export async function redriveDeadLetters(selection, description) {
  if (!(await requireOperator())) return null;
  const rate = h("input", { type: "number", min: 1, max: 5000, value: 100, required: true });
  const again = h("input", { type: "checkbox" });
  const anyway = h("input", { type: "checkbox" });
  const form = h("form", {}, h("p", {}, description, " Each message returns unchanged to its original partition and is decided as of now; a request with an answer gets its first answer again."),
    labelledField("Rate, messages a second", rate),
    h("label", { class: "check" }, again, " include messages that were redriven or answered before"),
    h("label", { class: "check" }, anyway, " include messages that would be dead-lettered again"),
    buttonRow("Show the plan", () => dialog.close()));
  const { dialog, problem } = openDialog("Redrive", form);
  let plan = null;
  onSubmit(form, dialog, problem, async () => {
    const options = { rate: Number(rate.value), again: again.checked, anyway: anyway.checked };
    plan = await post("/api/redrives/plan", { selection, options });
  }, { harmless: true });
  await new Promise((resolve) => dialog.addEventListener("close", resolve));
  return plan === null ? null : confirmRedrive(plan);
}

async function confirmRedrive(plan) {
  const left = Object.entries(plan.not_sent).map(([why, n]) => h("li", {}, `${count(n, "message")} not sent: ${plan.refusals[why]}`));
  const sent = plan.by_topic_and_reason.map((row) => h("li", {}, `${count(row.messages, "message")} to ${row.topic}, dead-lettered for ${words(row.reason)}`));
  if (!plan.messages) {
    const { dialog } = openDialog("Nothing to send", silentServers(plan.silent_servers), h("ul", {}, left.length ? left : h("li", {}, "No dead letter matches.")),
      h("div", { class: "buttons" }, h("button", { type: "button", class: "primary", on: { click: () => dialog.close() } }, "Close")));
    return null;
  }
  const reason = reasonInput();
  const form = h("form", {}, facts(["Messages", number(plan.messages)], ["Takes about", seconds(plan.seconds)], ["In doubt", plan.in_doubt ? number(plan.in_doubt) : null]),
    silentServers(plan.silent_servers), h("ul", {}, sent, left), labelledField("Reason", reason, "Recorded with the operation and your name."),
    buttonRow(`Redrive ${count(plan.messages, "message")}`, () => dialog.close()));
  const { dialog, problem } = openDialog("Redrive these messages?", form);
  return new Promise((resolve) => {
    let started = null;
    onSubmit(form, dialog, problem, async () => {
      started = await post("/api/redrives", { plan: plan.plan, because: reason.value });
      announce("The redrive started");
    });
    dialog.addEventListener("close", () => resolve(started));
  });
}
