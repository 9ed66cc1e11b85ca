/**
 * What can be set for an answer, and the request it makes.
 * Pure; an empty setting is not sent, so the server's default holds.
 */
export const NUMBERS = [
  { name: "temperature", label: "Temperature", hint: "0 to 2" },
  { name: "top_p", label: "Top p", hint: "0 to 1" },
  { name: "max_tokens", label: "Max tokens", hint: "no limit" },
  { name: "seed", label: "Seed", hint: "any integer" },
  { name: "presence_penalty", label: "Presence penalty", hint: "-2 to 2" },
  { name: "frequency_penalty", label: "Frequency penalty", hint: "-2 to 2" },
];

const NAMED = [
  ...NUMBERS.map(({ name }) => name),
  "model",
  "parallel_tool_calls",
  "response_format",
  "stop",
  "tool_choice",
  "tools",
];

export const EXAMPLE_SCHEMA = `{
  "type": "object",
  "properties": {
    "name": { "type": "string" },
    "age": { "type": "integer" }
  },
  "required": ["name", "age"],
  "additionalProperties": false
}`;

export function defaultSettings() {
  return {
    model: "",
    system: "",
    temperature: "",
    top_p: "",
    max_tokens: "",
    seed: "",
    presence_penalty: "",
    frequency_penalty: "",
    stop: "",
    logprobs: false,
    format: "text",
    schema: EXAMPLE_SCHEMA,
    tools: [],
    toolChoice: "auto",
    parallelToolCalls: true,
  };
}

/** The setting that an error's `param` is about, null where it is none: "tools[0].function" is about tools. */
export function settingOf(param) {
  const name = param?.split(/[.[]/, 1)[0].replace("max_completion_tokens", "max_tokens");
  return NAMED.includes(name) ? name : null;
}

/** A setting that cannot be made into JSON, found before anything is sent. */
export class SettingError extends Error {
  constructor(param, message) {
    super(message);
    Object.assign(this, { name: "SettingError", param });
  }
}

/** The body of POST /v1/chat/completions for these messages. */
export function chatRequest(settings, nodes) {
  const request = { model: settings.model, messages: messages(settings.system, nodes) };
  for (const { name } of NUMBERS) if (settings[name].trim()) request[name] = number(settings[name]);
  const stops = settings.stop.split("\n").filter(Boolean).map(unescapeLine);
  if (stops.length) request.stop = stops;
  if (settings.logprobs) Object.assign(request, { logprobs: true, top_logprobs: 5 });
  if (settings.format !== "text") request.response_format = responseFormat(settings);
  if (settings.tools.length) Object.assign(request, toolFields(settings));
  return { ...request, stream: true, stream_options: { include_usage: true } };
}

// What is no number goes out as typed: the server's refusal then names the field.
function number(text) {
  const value = Number(text);
  return Number.isFinite(value) ? value : text.trim();
}

function unescapeLine(text) {
  return text.replace(/\\([nt\\])/g, (_, letter) => ({ n: "\n", t: "\t", "\\": "\\" })[letter]);
}

function messages(system, nodes) {
  const list = system.trim() ? [{ role: "system", content: system }] : [];
  for (const node of nodes) {
    if (node.role === "user") list.push({ role: "user", content: node.content });
    else if (node.role === "tool") list.push({ role: "tool", tool_call_id: node.toolCallId, content: node.content });
    else if (node.answer.text || node.answer.toolCalls.length) list.push(assistant(node.answer));
  }
  return list;
}

function assistant({ text, toolCalls }) {
  if (!toolCalls.length) return { role: "assistant", content: text };
  const calls = toolCalls.map(({ id, name, arguments: args }) => ({
    id,
    type: "function",
    function: { name, arguments: args },
  }));
  return { role: "assistant", content: text || null, tool_calls: calls };
}

function responseFormat({ format, schema }) {
  if (format === "json_object") return { type: "json_object" };
  return {
    type: "json_schema",
    json_schema: { name: "answer", strict: true, schema: parseJson(schema, "response_format", "The JSON schema") },
  };
}

function toolFields({ tools, toolChoice, parallelToolCalls }) {
  const named = tools.some((tool) => tool.name === toolChoice);
  return {
    tools: tools.map((tool) => ({
      type: "function",
      function: {
        name: tool.name,
        description: tool.description,
        parameters: parseJson(tool.parameters, "tools", `The parameters of ${tool.name || "a tool without a name"}`),
      },
    })),
    tool_choice: named ? { type: "function", function: { name: toolChoice } } : toolChoice,
    parallel_tool_calls: parallelToolCalls,
  };
}

function parseJson(text, param, what) {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new SettingError(param, `${what}: not valid JSON. ${error.message}`);
  }
}
