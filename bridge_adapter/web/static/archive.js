/**
 * Conversations as a file: what export writes and import reads.
 * Pure; a file from elsewhere is checked field by field.
 */
const FORMAT = "truss-openai-bridge/conversations";

export function exportText(records) {
  return JSON.stringify({ format: FORMAT, version: 1, conversations: records }, null, 1);
}

/** The records in such a file; throws an Error that says what is wrong with it. */
export function importText(text) {
  let file;
  try {
    file = JSON.parse(text);
  } catch {
    throw new Error("The file is not JSON.");
  }
  if (file?.format !== FORMAT || file.version !== 1) throw new Error("The file holds no conversations of this page.");
  return list(file.conversations, "conversations").map(conversation);
}

function conversation(value, at) {
  const where = `conversations[${at}]`;
  const nodes = list(value?.nodes, `${where}.nodes`);
  const known = new Set([""]);
  return {
    id: string(value.id, `${where}.id`),
    title: string(value.title, `${where}.title`),
    createdAt: number(value.createdAt, `${where}.createdAt`),
    updatedAt: number(value.updatedAt, `${where}.updatedAt`),
    nodes: nodes.map((item, index) => node(item, `${where}.nodes[${index}]`, known)),
    shown: Object.fromEntries(Object.entries(value.shown ?? {}).filter(([, id]) => typeof id === "string")),
  };
}

// A message comes after the one it answers, so parents seen so far rule out cycles.
function node(value, where, known) {
  const id = string(value?.id, `${where}.id`);
  const parent = string(value.parent, `${where}.parent`);
  if (known.has(id)) throw new Error(`${where}.id is there twice.`);
  if (!known.has(parent)) throw new Error(`${where}.parent is not a message before it.`);
  known.add(id);
  const base = { id, parent, role: value.role };
  if (value.role === "user") return { ...base, content: string(value.content, `${where}.content`) };
  if (value.role === "tool") {
    const toolCallId = string(value.toolCallId, `${where}.toolCallId`);
    return { ...base, toolCallId, content: string(value.content, `${where}.content`) };
  }
  if (value.role === "assistant") return { ...base, ...assistant(value, where) };
  throw new Error(`${where}.role is none of user, assistant, tool.`);
}

function assistant(value, where) {
  return {
    state: value.state === "done" || value.state === "failed" ? value.state : "stopped",
    pair: typeof value.pair === "string" ? value.pair : null,
    side: value.side === "B" ? "B" : "A",
    error: value.error && {
      message: string(value.error.message, `${where}.error.message`),
      param: text(value.error.param),
      code: text(value.error.code),
    },
    request: value.request ?? null,
    events: list(value.events, `${where}.events`).map((event, index) => string(event, `${where}.events[${index}]`)),
    answer: answer(value.answer, `${where}.answer`),
  };
}

function answer(value, where) {
  return {
    text: string(value?.text, `${where}.text`),
    toolCalls: list(value.toolCalls, `${where}.toolCalls`).map((call, index) =>
      toolCall(call, `${where}.toolCalls[${index}]`),
    ),
    logprobs: list(value.logprobs, `${where}.logprobs`).map((entry, index) =>
      logprob(entry, `${where}.logprobs[${index}]`),
    ),
    finishReason: text(value.finishReason),
    usage: usage(value.usage),
    model: text(value.model),
    requestId: text(value.requestId),
    startedAt: number(value.startedAt, `${where}.startedAt`),
    firstAt: count(value.firstAt),
    lastAt: count(value.lastAt),
    firstTokens: count(value.firstTokens) ?? 0,
    tokens: count(value.tokens) ?? 0,
  };
}

function toolCall(call, where) {
  return {
    id: string(call?.id, `${where}.id`),
    name: string(call.name, `${where}.name`),
    arguments: string(call.arguments, `${where}.arguments`),
  };
}

function logprob(entry, where) {
  const alternatives = list(entry?.top_logprobs ?? [], `${where}.top_logprobs`);
  return {
    ...tokenAt(entry, where),
    top_logprobs: alternatives.map((item, index) => tokenAt(item, `${where}.top_logprobs[${index}]`)),
  };
}

function tokenAt(value, where) {
  return {
    token: string(value?.token, `${where}.token`),
    logprob: number(value.logprob, `${where}.logprob`),
    bytes: Array.isArray(value.bytes) ? value.bytes.map(Number) : null,
  };
}

function usage(value) {
  if (!value) return null;
  const cached = count(value.prompt_tokens_details?.cached_tokens);
  return {
    ...value,
    prompt_tokens: count(value.prompt_tokens),
    completion_tokens: count(value.completion_tokens),
    prompt_tokens_details: { cached_tokens: cached },
  };
}

function list(value, where) {
  if (!Array.isArray(value)) throw new Error(`${where} is not a list.`);
  return value;
}

function string(value, where) {
  if (typeof value !== "string") throw new Error(`${where} is not a text.`);
  return value;
}

function number(value, where) {
  if (typeof value !== "number") throw new Error(`${where} is not a number.`);
  return value;
}

const text = (value) => (typeof value === "string" ? value : null);
const count = (value) => (typeof value === "number" ? value : null);
