// A plain and a streamed answer with Node.js: npm install openai
import OpenAI from "openai";

const client = new OpenAI({ apiKey: "none", baseURL: "http://localhost:8000/v1" });

const answer = await client.chat.completions.create({
  model: "mistral-7b",
  messages: [{ role: "user", content: "What is a truss bridge?" }],
  max_tokens: 32,
});
console.log(answer.choices[0].message.content, answer.usage);

const stream = await client.chat.completions.create({
  model: "mistral-7b",
  messages: [{ role: "user", content: "Name three famous bridges." }],
  max_tokens: 32,
  stream: true,
});
for await (const chunk of stream) {
  process.stdout.write(chunk.choices[0]?.delta?.content ?? "");
}
console.log();
