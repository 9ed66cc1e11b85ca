/** The public API as the page uses it: the models there are, and one streamed chat completion. */
import { SseParser } from "./sse.js";

/** What the server refused or failed to do, in OpenAI's terms. */
export class ApiError extends Error {
  constructor(
    { message, type = null, param = null, code = null },
    { status = null, requestId = null, retryAfter = null } = {},
  ) {
    super(message);
    Object.assign(this, { name: "ApiError", type, param, code, status, requestId, retryAfter });
  }
}

/** The answer began but its end never came; what came before stands. */
export class BrokenStream extends Error {
  name = "BrokenStream";
}

export class Api {
  #keys;

  /** `keys.current()` is the caller's key or null; `keys.ask(message)` resolves to whether the user gave another. */
  constructor(base, keys) {
    this.base = new URL("v1", base).href;
    this.#keys = keys;
  }

  async models() {
    const response = await this.#fetch("models");
    return (await response.json()).data.map((model) => model.id);
  }

  /** Resolves when the server has begun to answer; `batches` then yields lists of event data as they arrive. */
  async chat(request, signal) {
    const response = await this.#fetch("chat/completions", {
      method: "POST",
      headers: { "Content-Type": "application/json", Accept: "text/event-stream" },
      body: JSON.stringify(request),
      signal,
    });
    return { requestId: response.headers.get("x-request-id"), batches: batches(response, signal) };
  }

  async #fetch(path, options = {}) {
    for (;;) {
      const response = await this.#attempt(path, options);
      if (response.ok) return response;
      const error = await refusal(response);
      if (response.status !== 401 || !(await this.#keys.ask(error.message))) throw error;
    }
  }

  async #attempt(path, options) {
    const headers = new Headers(options.headers);
    const key = this.#keys.current();
    if (key) headers.set("Authorization", `Bearer ${key}`);
    try {
      return await fetch(`${this.base}/${path}`, { ...options, headers, credentials: "omit", cache: "no-store" });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new ApiError({ message: "The server could not be reached.", type: "connection_error" });
    }
  }
}

async function refusal(response) {
  const about = {
    status: response.status,
    requestId: response.headers.get("x-request-id"),
    retryAfter: response.headers.get("retry-after"),
  };
  const body = await response.json().catch(() => null);
  if (typeof body?.error?.message === "string") return new ApiError(body.error, about);
  return new ApiError({ message: `The server answered ${response.status} ${response.statusText}`.trim() + "." }, about);
}

async function* batches(response, signal) {
  const parser = new SseParser();
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let done = false;
  try {
    while (!done) {
      const piece = await reader.read();
      if (piece.done) break;
      const events = parser.push(piece.value);
      done = events.at(-1) === "[DONE]";
      if (events.length) yield events;
    }
  } catch (error) {
    if (signal.aborted) throw signal.reason;
    throw new BrokenStream("The connection broke before the answer was complete.", { cause: error });
  } finally {
    reader.cancel().catch(() => {});
  }
  if (!done) throw new BrokenStream("The stream ended before the answer was complete.");
}
