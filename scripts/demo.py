"""`make demo`: starts what `make serve` starts, holds one conversation through the OpenAI client, and stops."""

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

from scripts.interrupt import Interrupt
from scripts.serve import MODEL_NAME, PATH_ID, Running, StartFailed, serving

if TYPE_CHECKING:
    from openai import OpenAI
    from openai.types.chat import ChatCompletionChunk, ChatCompletionMessageParam

CONVERSATION: "list[ChatCompletionMessageParam]" = [
    {"role": "user", "content": "Who won the world series in 2020?"},
    {"role": "assistant", "content": "The Los Angeles Dodgers won the World Series in 2020."},
    {"role": "user", "content": "Where was it played?"},
]


def main() -> None:
    interrupt = Interrupt()
    try:
        with serving(interrupt) as running, interrupt.anywhere():
            converse(running)
    except StartFailed as failure:
        sys.exit(str(failure))


def converse(running: Running) -> None:
    from openai import OpenAI  # here, so that Ctrl-C while it is imported ends in order

    running.adapter.quiet()
    client = OpenAI(api_key="none", base_url=f"{running.base_url}/{PATH_ID}/v1")
    print(f"\n{running.model} through {client.base_url}\n")
    for message in CONVERSATION:
        print(f"{message['role']:>9}: {message.get('content')}")
    plain(client)
    streamed(client)


def plain(client: "OpenAI") -> None:
    response = client.chat.completions.create(model=MODEL_NAME, messages=CONVERSATION, max_tokens=128, temperature=0)
    choice = response.choices[0]
    print(f"\nassistant: {choice.message.content}")
    print(f"           finish_reason={choice.finish_reason} usage={counts(response.usage)}")


def streamed(client: "OpenAI") -> None:
    stream = client.chat.completions.create(
        model=MODEL_NAME,
        messages=CONVERSATION,
        max_tokens=128,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    print("\n streamed: ", end="", flush=True)
    print(f"\n           {show(stream)}\n", flush=True)


def show(stream: "Iterable[ChatCompletionChunk]") -> str:
    """Print the pieces as they come; return what the last chunks say."""
    finish_reason, usage = None, None
    for chunk in stream:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            print(choice.delta.content or "", end="", flush=True)
            finish_reason = choice.finish_reason or finish_reason
    return f"finish_reason={finish_reason} usage={counts(usage)}"


def counts(usage: object) -> str:
    names = ("prompt_tokens", "completion_tokens", "total_tokens")
    return ", ".join(f"{name} {getattr(usage, name, None)}" for name in names)


if __name__ == "__main__":
    main()
