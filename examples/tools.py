"""A tool call: the model must call the function, this program runs it, the model answers with the result."""

import json

from openai import OpenAI
from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolUnionParam

client = OpenAI(api_key="none", base_url="http://localhost:8000/v1")
tools: list[ChatCompletionToolUnionParam] = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "The weather in a city now.",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string", "enum": ["Paris", "Oslo"]}},
                "required": ["city"],
            },
        },
    }
]
messages: list[ChatCompletionMessageParam] = [{"role": "user", "content": "What is the weather in Paris?"}]

first = client.chat.completions.create(
    model="mistral-7b",
    messages=messages,
    tools=tools,
    tool_choice="required",
    parallel_tool_calls=False,
    temperature=0,
    max_tokens=128,
)
message = first.choices[0].message
print(
    "calls:",
    [(call.function.name, call.function.arguments) for call in message.tool_calls or () if call.type == "function"],
)

messages.append(message.to_dict())  # type: ignore[arg-type]
for call in message.tool_calls or ():
    if call.type == "function":
        city = json.loads(call.function.arguments)["city"]
        messages.append({"role": "tool", "tool_call_id": call.id, "content": f"18 degrees and sunny in {city}"})
second = client.chat.completions.create(
    model="mistral-7b", messages=messages, tools=tools, temperature=0, max_tokens=64
)
print("answer:", second.choices[0].message.content)
