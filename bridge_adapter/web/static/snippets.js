/** A request as a program that can be pasted and run: Python and Node with OpenAI's libraries, or curl. Pure. */

/** The languages there are, by the name shown. */
export const SNIPPETS = { Python: python, Node: node, curl };

function python(base, request) {
  const fields = Object.entries(request).map(([name, value]) => `    ${name}=${pythonLiteral(value, 1)},`);
  return `from openai import OpenAI

client = OpenAI(base_url=${pythonLiteral(base)})  # the key: OPENAI_API_KEY

stream = client.chat.completions.create(
${fields.join("\n")}
)
for chunk in stream:
    for choice in chunk.choices:
        print(choice.delta.content or "", end="", flush=True)
print()
`;
}

function node(base, request) {
  return `import OpenAI from "openai";

const client = new OpenAI({ baseURL: ${JSON.stringify(base)} }); // the key: OPENAI_API_KEY

const stream = await client.chat.completions.create(${JSON.stringify(request, null, 2)});
for await (const chunk of stream) {
  process.stdout.write(chunk.choices[0]?.delta?.content ?? "");
}
process.stdout.write("\\n");
`;
}

function curl(base, request) {
  return `curl --no-buffer ${shellWord(`${base}/chat/completions`)} \\
  -H "Authorization: Bearer $OPENAI_API_KEY" \\
  -H 'Content-Type: application/json' \\
  -d ${shellWord(JSON.stringify(request, null, 2))}
`;
}

function shellWord(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

function pythonLiteral(value, depth = 0) {
  if (value === null) return "None";
  if (value === true) return "True";
  if (value === false) return "False";
  if (typeof value !== "object") return JSON.stringify(value);
  const [open, close] = Array.isArray(value) ? "[]" : "{}";
  const items = Array.isArray(value)
    ? value.map((item) => pythonLiteral(item, depth + 1))
    : Object.entries(value).map(([key, item]) => `${JSON.stringify(key)}: ${pythonLiteral(item, depth + 1)}`);
  const line = open + items.join(", ") + close;
  if (line.length < 72 && !line.includes("\n")) return line;
  const indent = "    ".repeat(depth + 1);
  return `${open}\n${items.map((item) => `${indent}${item},\n`).join("")}${"    ".repeat(depth)}${close}`;
}
