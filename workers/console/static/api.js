// What the page asks the console. Errors have a sentence for people and a code.

let session = { role: "nobody", actor: "", csrf: "", open_to_all: false, may_act_at_all: false };
const listeners = new Set();

export const who = () => session;
export const mayAct = () => session.role === "operator";
export const onSession = (listener) => listeners.add(listener);

export class ApiError extends Error {
  constructor(code, text, status) {
    super(text);
    this.code = code;
    this.status = status;
  }
}

async function ask(path, options = {}) {
  let answer;
  try {
    answer = await fetch(path, { credentials: "same-origin", ...options });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("away", "The console does not answer: is it running?", 0);
  }
  const body = await answer.json().catch(() => null);
  if (answer.ok && body !== null) return body;
  const told = body?.error ?? { code: "mistake", text: `The console failed (${answer.status}): its log says more.` };
  if (answer.status === 401 && told.code === "sign_in" && session.role !== "nobody") await refresh();
  throw new ApiError(told.code, told.text, answer.status);
}

/** Reads; parameters without a value are left out. */
export function read(path, parameters = {}, signal = undefined) {
  const query = new URLSearchParams(Object.entries(parameters).filter(([, value]) => value !== "" && value !== null && value !== undefined));
  return ask(query.size ? `${path}?${query}` : path, { signal });
}

/** Asks for something to be done. */
export function act(path, body = {}) {
  return ask(path, { method: "POST", headers: { "Content-Type": "application/json", "X-Csrf-Token": session.csrf }, body: JSON.stringify(body) });
}

function accept(told) {
  session = told;
  for (const listener of listeners) listener(session);
  return session;
}

export const refresh = async () => accept(await ask("/api/session"));
export const signIn = async (token, name) => accept(await act("/api/session", { token, name }));
export const signOut = async () => accept(await ask("/api/session", { method: "DELETE" }));
