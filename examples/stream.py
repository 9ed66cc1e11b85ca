"""A streamed answer, and what it cost."""

from openai import OpenAI

client = OpenAI(api_key="none", base_url="http://localhost:8000/v1")

stream = client.chat.completions.create(
    model="mistral-7b",
    messages=[{"role": "user", "content": "What is a truss bridge?"}],
    max_tokens=48,
    stream=True,
    stream_options={"include_usage": True},
)
for chunk in stream:
    for choice in chunk.choices:
        print(choice.delta.content or "", end="", flush=True)
    if chunk.usage:
        print(f"\n{chunk.usage.completion_tokens} tokens")
