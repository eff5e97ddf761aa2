// Requests to the console's API. An error has a code for programs and a text for people.

let session = { role: "nobody", actor: "", csrf: "", open_to_all: false, may_act_at_all: false };
const listeners = new Set();

export const currentSession = () => session;
export const isOperator = () => session.role === "operator";
export const onSession = (listener) => listeners.add(listener);

export class ApiError extends Error {
  constructor(code, text, status) {
    super(text);
    this.code = code;
    this.status = status;
  }
}

async function request(path, options = {}) {
  let response;
  try {
    response = await fetch(path, { credentials: "same-origin", ...options });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("away", "The console does not respond: is it running?", 0);
  }
  const body = await response.json().catch(() => null);
  if (response.ok && body !== null) return body;
  const error = body?.error ?? { code: "mistake", text: `The console failed (status ${response.status}): see its log.` };
  if (response.status === 401 && error.code === "sign_in" && session.role !== "nobody") await refreshSession();
  if (error.code === "no_csrf_token") {
    // Another tab has signed in anew, perhaps as somebody else: not sent again unasked.
    const { actor } = await refreshSession();
    throw new ApiError(error.code, `Nothing was done: this browser was signed in again in another tab, as ${actor}. Press again to act as ${actor}.`, response.status);
  }
  throw new ApiError(error.code, error.text, response.status);
}

/** Sends a GET request and returns the answer; parameters without a value are left out. */
export function get(path, parameters = {}, signal = undefined) {
  const query = new URLSearchParams(Object.entries(parameters).filter(([, value]) => value !== "" && value !== null && value !== undefined));
  return request(query.size ? `${path}?${query}` : path, { signal });
}

/** Sends a POST request with the session's CSRF token and returns the answer. */
export function post(path, body = {}) {
  return request(path, { method: "POST", headers: { "Content-Type": "application/json", "X-Csrf-Token": session.csrf }, body: JSON.stringify(body) });
}

function setSession(received) {
  session = received;
  for (const listener of listeners) listener(session);
  return session;
}

export const refreshSession = async () => setSession(await request("/api/session"));
export const signIn = async (token, name) => setSession(await post("/api/session", { token, name }));
export const signOut = async () => setSession(await request("/api/session", { method: "DELETE" }));
