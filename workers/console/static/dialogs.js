// Dialogs: signing in, and asking once before something is done. Native ones: they hold the focus and end with Escape.

import { act, mayAct, signIn, who } from "./api.js";
import { facts, h, say } from "./dom.js";
import { count, number, seconds, words } from "./format.js";

const REFUSALS = {
  unreadable: "no dead letters of the workers', so their messages are not known",
  cut: "too large to have been kept whole",
  nowhere: "their partition is gone, and they have no key",
  redriven_before: "sent back before",
  answered: "answered already",
  refused_again: "would be dead-lettered again by this version and plan catalogue",
};

let number_ = 0;

function dialog(title, ...children) {
  const id = `dialog-${(number_ += 1)}`;
  const problem = h("p", { class: "problem-line", role: "alert" });
  const made = h("dialog", { "aria-labelledby": id }, h("h2", { id }, title), ...children, problem);
  made.addEventListener("close", () => made.remove());
  document.body.append(made);
  made.showModal();
  return { made, problem };
}

function buttons(text, close, attributes = {}) {
  return h("div", { class: "buttons" },
    h("button", { type: "button", on: { click: close } }, "Cancel"),
    h("button", { type: "submit", class: "primary", ...attributes }, text));
}

function field(label, input, hint) {
  const id = `field-${(number_ += 1)}`;
  input.id = id;
  if (hint) input.setAttribute("aria-describedby", `${id}-hint`);
  return h("div", { class: "field" }, h("label", { for: id }, label), input, hint && h("p", { class: "quiet", id: `${id}-hint` }, hint));
}

/** Runs what a form asks for; keeps it open with the reason where that was refused. */
function onSubmit(form, made, problem, run) {
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const button = form.querySelector("[type=submit]");
    button.disabled = true;
    problem.textContent = "";
    try {
      await run();
      made.close();
    } catch (error) {
      problem.textContent = error.message;
    } finally {
      button.disabled = false;
    }
  });
}

/** Asks for a token. Resolves once somebody is signed in, or null where they would not. */
export function askToSignIn() {
  const token = h("input", { type: "password", required: true, autocomplete: "current-password", spellcheck: "false" });
  const name = h("input", { type: "text", autocomplete: "username", maxlength: 100 });
  const note = who().may_act_at_all ? "The operator's token lets you act, the reader's token lets you read." : "This console has no operator's token: nobody can act from it.";
  const form = h("form", {}, h("p", {}, note), field("Token", token),
    field("Your name", name, "Goes on record with what you do. Needed to act."), buttons("Sign in", () => made.close()));
  const { made, problem } = dialog("Sign in", form);
  return new Promise((resolve) => {
    let session = null;
    onSubmit(form, made, problem, async () => {
      session = await signIn(token.value, name.value);
      say(`Signed in as ${session.role}`);
    });
    made.addEventListener("close", () => resolve(session));
  });
}

async function needOperator() {
  if (!mayAct()) await askToSignIn();
  return mayAct();
}

function because() {
  return h("input", { type: "text", required: true, maxlength: 500 });
}

/** Asks once, with the reason for the record, and does it. `run` gets the reason. */
export async function confirm(title, text, action, run) {
  if (!(await needOperator())) return null;
  const why = because();
  const form = h("form", {}, h("p", {}, text), field("Why", why, "Kept with the operation, and your name."), buttons(action, () => made.close()));
  const { made, problem } = dialog(title, form);
  return new Promise((resolve) => {
    let done = null;
    onSubmit(form, made, problem, async () => { done = await run(why.value); });
    made.addEventListener("close", () => resolve(done));
  });
}

/** The same for what has no reason of its own on record. */
export async function confirmPlainly(title, text, action, run) {
  if (!(await needOperator())) return null;
  const form = h("form", {}, h("p", {}, text), buttons(action, () => made.close()));
  const { made, problem } = dialog(title, form);
  return new Promise((resolve) => {
    let done = null;
    onSubmit(form, made, problem, async () => { done = await run(); });
    made.addEventListener("close", () => resolve(done));
  });
}

/** Asks how letters are to be sent back, shows what that would do, asks once, and begins. */
export async function askToRedrive(selection, what) {
  if (!(await needOperator())) return null;
  const rate = h("input", { type: "number", min: 1, max: 5000, value: 100, required: true });
  const again = h("input", { type: "checkbox" });
  const anyway = h("input", { type: "checkbox" });
  const form = h("form", {}, h("p", {}, what, " Each goes to the partition it came from, as it was, and is decided as of now; a request that was answered gets its first answer again."),
    field("Rate, messages a second", rate),
    h("label", { class: "check" }, again, " include messages sent back before or already answered"),
    h("label", { class: "check" }, anyway, " include messages that would be dead-lettered again"),
    buttons("Show the plan", () => made.close()));
  const { made, problem } = dialog("Send back", form);
  let plan = null;
  onSubmit(form, made, problem, async () => {
    const options = { rate: Number(rate.value), again: again.checked, anyway: anyway.checked };
    plan = await act("/api/redrives/plan", { selection, options });
  });
  await new Promise((resolve) => made.addEventListener("close", resolve));
  return plan === null ? null : begin(plan);
}

async function begin(plan) {
  const left = Object.entries(plan.not_sent).map(([why, n]) => h("li", {}, `${count(n, "message")} not sent: ${REFUSALS[why] ?? words(why)}`));
  const sent = plan.by_topic_and_reason.map((row) => h("li", {}, `${count(row.messages, "message")} to ${row.topic}, set aside as ${words(row.reason)}`));
  if (!plan.messages) {
    const { made } = dialog("Nothing to send", h("ul", {}, left.length ? left : h("li", {}, "No dead letter matches.")),
      h("div", { class: "buttons" }, h("button", { type: "button", class: "primary", on: { click: () => made.close() } }, "Close")));
    return null;
  }
  const why = because();
  const form = h("form", {}, facts(["Messages", number(plan.messages)], ["Takes about", seconds(plan.seconds)], ["In doubt", plan.in_doubt ? number(plan.in_doubt) : null]),
    h("ul", {}, sent, left), field("Why", why, "Kept with the operation, and your name."),
    buttons(`Send ${count(plan.messages, "message")} back`, () => made.close()));
  const { made, problem } = dialog("Send these messages back?", form);
  return new Promise((resolve) => {
    let begun = null;
    onSubmit(form, made, problem, async () => {
      begun = await act("/api/redrives", { plan: plan.plan, because: why.value });
      say("The redrive began");
    });
    made.addEventListener("close", () => resolve(begun));
  });
}
