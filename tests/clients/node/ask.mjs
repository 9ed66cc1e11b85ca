// OpenAI's client for Node.js against the first of the addresses given, smollm2's: prints what it made of the answers as one JSON object.
import OpenAI from "openai";

const client = new OpenAI({ apiKey: "none", baseURL: process.argv[2], maxRetries: 0 });
const ask = { model: "smollm2", max_tokens: 40, temperature: 0 };
const messages = [{ role: "user", content: "What is the capital of France?" }];
const weather = {
  type: "function",
  function: {
    name: "get_weather",
    parameters: {
      type: "object",
      properties: { city: { type: "string", enum: ["Paris", "Oslo"] } },
      required: ["city"],
      additionalProperties: false,
    },
  },
};
const called = { ...ask, messages, tools: [weather], tool_choice: "required", parallel_tool_calls: false };
const response = { model: "smollm2", max_output_tokens: 40, temperature: 0, input: messages };

async function failure(more) {
  try {
    await client.chat.completions.create({ ...ask, messages, ...more });
    return { kind: "none" };
  } catch (error) {
    return { kind: error.constructor.name, status: error.status, code: error.code, param: error.param };
  }
}

const stream = client.chat.completions.stream({ ...ask, messages, stream_options: { include_usage: true } });
const streamed = await stream.finalChatCompletion();
const story = [{ role: "user", content: "Tell me a long story of a bridge." }];
const long = client.chat.completions.stream({ ...ask, messages: story, max_tokens: 100 });
let pieces = 0;
long.on("content", () => (pieces += 1));
await long.finalChatCompletion();
const toolStream = client.chat.completions.stream(called);
const responseStream = client.responses.stream(response);

const answer = await client.chat.completions.create({ ...ask, messages });
console.log(
  JSON.stringify({
    plain: { text: answer.choices[0].message.content, usage: answer.usage, id: answer._request_id },
    streamed: { text: streamed.choices[0].message.content, usage: streamed.usage },
    pieces,
    called: (await client.chat.completions.create(called)).choices[0],
    calledStreamed: (await toolStream.finalChatCompletion()).choices[0],
    response: (await client.responses.create(response)).output_text,
    responseStreamed: (await responseStream.finalResponse()).output_text,
    tooWarm: await failure({ temperature: 9 }),
    noSuchModel: await failure({ model: "nobody" }),
  }),
);
