/**
 * What goes on in a conversation: asking, answering again, stopping, and keeping what came.
 * Tells its listeners "thread" when messages come or go and "answer" when one grows; knows no elements.
 */
import { newAnswer, takeChunk } from "./answer.js";
import { ApiError, BrokenStream } from "./api.js";
import { chatRequest } from "./settings.js";

const SIDES = ["A", "B"];
const SAVE_EVERY = 5000;
const LONGEST_TURN = 10;

export class Chat extends EventTarget {
  #api;
  #library;
  #running = new Map();
  #removed = new WeakSet();

  constructor(api, library, conversation) {
    super();
    this.#api = api;
    this.#library = library;
    this.conversation = conversation;
  }

  open(conversation) {
    this.conversation = conversation;
    this.#tell("thread");
  }

  get busy() {
    return this.conversation
      .path()
      .some((node) => this.runs(node.id) || (node.pair && this.pair(node).some(({ id }) => this.runs(id))));
  }

  runs(id) {
    return this.#running.has(id);
  }

  /** The answers that stand side by side with this one, itself included. */
  pair(node) {
    return this.conversation.siblings(node.id).filter(({ pair }) => pair === node.pair);
  }

  /** Asks below the last message shown; one settings object gives one answer, two give a pair. */
  ask(text, settings) {
    return this.askBelow(this.conversation.path().at(-1)?.id ?? null, text, settings);
  }

  askBelow(parent, text, settings) {
    const before = this.conversation.lineage(parent);
    const nodes = [...before, { role: "user", content: text }];
    const requests = settings.map((each, index) => requestOf(SIDES[index], each, nodes));
    const { id } = this.conversation.add(parent, { role: "user", content: text });
    return this.#answer(id, requests);
  }

  /** The same question again with another text, as a branch of its own. */
  edit(node, text, settings) {
    return this.askBelow(node.parent || null, text, settings);
  }

  /** Another answer to what this one answered. */
  again(node, settings) {
    return this.#answer(node.parent, [chatRequest(settings, this.conversation.lineage(node.parent))]);
  }

  /** Gives each tool call its result, in order, and lets the model go on. */
  giveResults(node, results, settings) {
    const tools = node.answer.toolCalls.map(({ id }, index) => ({
      role: "tool",
      toolCallId: id,
      content: results[index],
    }));
    const request = chatRequest(settings, [...this.conversation.lineage(node.id), ...tools]);
    let parent = node.id;
    for (const tool of tools) parent = this.conversation.add(parent, tool).id;
    return this.#answer(parent, [request]);
  }

  show(id) {
    this.conversation.show(id);
    this.#tell("thread");
    return this.#save(this.conversation);
  }

  stop() {
    for (const { abort, conversation } of this.#running.values()) if (conversation === this.conversation) abort.abort();
  }

  /** Takes a conversation out of the library, whatever is still running in it. */
  remove(conversation) {
    this.#removed.add(conversation);
    for (const running of this.#running.values()) if (running.conversation === conversation) running.abort.abort();
    return this.#library.delete(conversation.id);
  }

  async #answer(parent, requests) {
    const conversation = this.conversation;
    const pair = requests.length > 1 ? crypto.randomUUID() : null;
    const nodes = requests.map((request, index) =>
      conversation.add(parent, {
        role: "assistant",
        state: "running",
        pair,
        side: SIDES[index],
        error: null,
        request,
        events: [],
        answer: newAnswer(now()),
      }),
    );
    conversation.show(nodes[0].id);
    await Promise.all(nodes.map((node) => this.#stream(conversation, node)));
  }

  async #stream(conversation, node) {
    const abort = new AbortController();
    this.#running.set(node.id, { abort, conversation });
    this.#tell("thread");
    let saved = now();
    this.#save(conversation);
    try {
      const { requestId, batches } = await this.#api.chat(node.request, abort.signal);
      node.answer.requestId = requestId;
      let turn = now();
      for await (const batch of batches) {
        for (const data of batch) {
          take(node, data);
          if (now() - turn > LONGEST_TURN) turn = await nextTurn();
        }
        this.#tell("answer", node.id);
        if (now() - saved > SAVE_EVERY) {
          saved = now();
          this.#save(conversation);
        }
      }
      if (!node.answer.finishReason) throw new BrokenStream("The stream ended without a finish_reason.");
      node.state = "done";
    } catch (error) {
      node.state = error.name === "AbortError" ? "stopped" : "failed";
      if (node.state === "failed") node.error = told(error);
      node.answer.requestId ??= error.requestId ?? null;
    } finally {
      this.#running.delete(node.id);
      conversation.record.updatedAt = Date.now();
    }
    this.#tell("answer", node.id);
    this.#tell("thread");
    await this.#save(conversation);
  }

  async #save(conversation) {
    if (this.#removed.has(conversation)) return;
    try {
      await this.#library.put(conversation.record);
    } catch (error) {
      this.dispatchEvent(new CustomEvent("unsaved", { detail: error.message }));
    }
  }

  #tell(what, id = null) {
    this.dispatchEvent(new CustomEvent(what, { detail: id }));
  }
}

// A setting that makes no request says whose it is.
function requestOf(side, settings, nodes) {
  try {
    return chatRequest(settings, nodes);
  } catch (error) {
    throw Object.assign(error, { side });
  }
}

function take(node, data) {
  node.events.push(data);
  if (data === "[DONE]") return;
  let chunk;
  try {
    chunk = JSON.parse(data);
  } catch {
    throw new BrokenStream("The stream held an event that is not JSON.");
  }
  if (chunk.error) throw new ApiError(chunk.error);
  takeChunk(node.answer, chunk, now());
}

// Lets the browser draw and listen: reads of what has arrived already would follow each other without a pause.
function nextTurn() {
  return new Promise((resolve) => setTimeout(() => resolve(now())));
}

function told({ name, message, type = null, param = null, code = null, status = null, retryAfter = null }) {
  return { name, message, type, param, code, status, retryAfter };
}

function now() {
  return performance.timeOrigin + performance.now();
}
