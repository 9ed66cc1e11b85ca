/**
 * An answer as it grows: chat.completion.chunk objects in, one plain record out.
 * Pure; time comes in with each chunk, in milliseconds on any clock.
 */
export function newAnswer(startedAt) {
  return {
    text: "",
    toolCalls: [],
    logprobs: [],
    finishReason: null,
    usage: null,
    model: null,
    requestId: null,
    startedAt,
    firstAt: null,
    lastAt: null,
    firstTokens: 0,
    tokens: 0,
  };
}

/** Adds one chunk to the record. */
export function takeChunk(answer, chunk, at) {
  answer.model = chunk.model ?? answer.model;
  if (chunk.usage) answer.usage = chunk.usage;
  const choice = chunk.choices?.[0];
  if (!choice) return;
  const { delta = {}, logprobs } = choice;
  const entries = logprobs?.content ?? [];
  if (delta.content || delta.tool_calls?.length || entries.length) {
    const count = entries.length || 1;
    if (answer.firstAt === null) {
      answer.firstAt = at;
      answer.firstTokens = count;
    }
    answer.lastAt = at;
    answer.tokens += count;
  }
  answer.text += delta.content ?? "";
  for (const entry of entries) answer.logprobs.push(entry);
  for (const call of delta.tool_calls ?? []) takeCall(answer.toolCalls, call);
  answer.finishReason = choice.finish_reason ?? answer.finishReason;
}

function takeCall(calls, { index, id, function: { name, arguments: piece } = {} }) {
  calls[index] ??= { id: "", name: "", arguments: "" };
  const call = calls[index];
  call.id = id ?? call.id;
  call.name = name ?? call.name;
  call.arguments += piece ?? "";
}

/** Seconds to the first token, or null before it. */
export function timeToFirst(answer) {
  return answer.firstAt === null ? null : (answer.firstAt - answer.startedAt) / 1000;
}

/** Tokens a second after the first, or null where there is nothing to measure. */
export function tokensPerSecond(answer) {
  const seconds = (answer.lastAt - answer.firstAt) / 1000;
  const tokens = (answer.usage?.completion_tokens ?? answer.tokens) - answer.firstTokens;
  return answer.firstAt === null || seconds <= 0 || tokens <= 0 ? null : tokens / seconds;
}
