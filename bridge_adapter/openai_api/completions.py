"""/completions: text that goes on from a prompt. Checks a request, makes the job, shows the answer. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from bridge_adapter import fields
from bridge_adapter.chunks import DONE, Renderer, failed
from bridge_adapter.errors import APIError, InvalidRequest, unsupported_parameter
from bridge_adapter.fields import Check
from bridge_adapter.jobs import Identity, Job
from bridge_adapter.openai_types import (
    SAMPLING,
    check_fields,
    check_stream_options,
    check_stream_pair,
    check_token_limits,
    refused,
)
from bridge_adapter.tails import Tail
from bridge_adapter.translate import sampling_body, stream_options, usage
from bridge_adapter.wire import Choice, Delta, Done, Event, Finish, Result, Start, TokenLogprob

_DEFAULT_MAX_TOKENS = 16  # OpenAI's, for this route only
_MOST_PROMPTS = 128
_TOKEN_LIMITS = ("max_tokens", "max_new_tokens")
_json = msgspec.json.encode


def check_prompt(value: Any, param: str) -> list[str | list[int]]:
    """One prompt or several, as a list of prompts."""
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list):
        raise fields.wrong_type(param, "one of a string, array of strings, array of integers or array of arrays", value)
    items = fields.array(value, param, of="strings or integers")
    if isinstance(items[0], int) and not isinstance(items[0], bool):
        return [_token_ids(items, param)]
    if len(items) > _MOST_PROMPTS:
        fields.array(value, param, longest=_MOST_PROMPTS)
    return [
        _token_ids(item, f"{param}[{i}]") if isinstance(item, list) else fields.string(item, f"{param}[{i}]")
        for i, item in enumerate(items)
    ]


def _token_ids(value: Any, param: str) -> list[int]:
    check = fields.integer(0)
    return [check(item, f"{param}[{i}]") for i, item in enumerate(fields.array(value, param, of="integers"))]


COMPLETIONS: dict[str, Check] = {
    **SAMPLING,
    "model": fields.string,
    "prompt": check_prompt,
    "max_new_tokens": fields.integer(1),
    "logprobs": fields.integer(0, 5),
    "echo": fields.boolean,
    "best_of": fields.integer(1, 20),
    "suffix": refused,
    "stream": fields.boolean,
    "stream_options": check_stream_options,
    "user": fields.string,
}


@dataclass(frozen=True, slots=True)
class CompletionPlan:
    """`shown`: so many of the job's n choices of each prompt, the likeliest first; `echo`: prompts to be repeated."""

    job: Job
    shown: int
    echo: list[str] | None

    def answer(self, identity: Identity, result: Result) -> bytes:
        choices = [
            self._choice(choice, index, index // self.shown)
            for index, choice in enumerate(self._chosen(result.choices))
        ]
        return _json(_head(identity) | {"choices": choices, "usage": usage(result.usage)})

    def renderer(self, identity: Identity) -> Renderer:
        return CompletionChunks(self.job, identity, self.echo)

    def _chosen(self, choices: list[Choice]) -> list[Choice]:
        if self.shown == self.job.n:
            return choices
        groups = [choices[start : start + self.job.n] for start in range(0, len(choices), self.job.n)]
        return [choice for group in groups for choice in sorted(group, key=_likelihood, reverse=True)[: self.shown]]

    def _choice(self, choice: Choice, index: int, prompt: int) -> dict[str, Any]:
        before = self.echo[prompt] if self.echo else ""
        probs = choice.logprobs if "top_logprobs" in self.job.bodies[0] else None
        return {
            "index": index,
            "text": before + (choice.text or ""),
            "logprobs": _logprobs(probs, len(before)),
            "finish_reason": choice.finish_reason,
        }


def plan_completion(body: Mapping[str, Any]) -> CompletionPlan:
    checked = check_fields(body, COMPLETIONS)
    if "prompt" not in checked:
        raise fields.missing("prompt")
    check_token_limits(checked, _TOKEN_LIMITS)
    check_stream_pair(checked)
    shown = checked.get("n", 1)
    made = _made(checked, shown)
    sampling = sampling_body({name: value for name, value in checked.items() if name != "logprobs"} | {"n": made})
    sampling.setdefault("max_tokens", _DEFAULT_MAX_TOKENS)
    if "logprobs" in checked:
        sampling |= {"logprobs": True, "top_logprobs": checked["logprobs"]}
    elif made > shown:
        sampling["logprobs"] = True
    if checked.get("stream"):
        sampling["stream"] = True
    bodies = [{**sampling, "prompt": prompt} for prompt in checked["prompt"]]
    job = Job(bodies, made, checked.get("stream", False), stream_options(checked))
    return CompletionPlan(job, shown, _echo(checked))


def _made(checked: Mapping[str, Any], shown: int) -> int:
    made: int = checked.get("best_of", shown)
    if made < shown:
        raise InvalidRequest(f"'best_of' must be at least 'n': it is {made}, 'n' is {shown}.", param="best_of")
    if made > shown and checked.get("stream"):
        raise InvalidRequest("Cannot stream results with best_of > n.", param="best_of")
    return made


def _echo(checked: Mapping[str, Any]) -> list[str] | None:
    if not checked.get("echo"):
        return None
    prompts: list[str] = []
    for prompt in checked["prompt"]:
        if not isinstance(prompt, str):
            raise InvalidRequest("'echo' is only supported for prompts that are strings.", param="echo")
        prompts.append(prompt)
    if "logprobs" in checked:
        raise unsupported_parameter("echo")  # the prompt's own log-probabilities are not computed
    return prompts


def _likelihood(choice: Choice) -> float:
    tokens = choice.logprobs or []
    return sum(token.logprob for token in tokens) / len(tokens) if tokens else float("-inf")


def _head(identity: Identity) -> dict[str, Any]:
    return {
        "id": identity.id,
        "object": "text_completion",
        "created": identity.created,
        "model": identity.model,
        "system_fingerprint": None,
    }


def _logprobs(tokens: list[TokenLogprob] | None, offset: int) -> dict[str, Any] | None:
    if tokens is None:
        return None
    offsets: list[int] = []
    for token in tokens:
        offsets.append(offset)
        offset += len(token.token)
    return {
        "tokens": [token.token for token in tokens],
        "token_logprobs": [token.logprob for token in tokens],
        "top_logprobs": [{top.token: top.logprob for top in token.top_logprobs} for token in tokens],
        "text_offset": offsets,
    }


class CompletionChunks:
    """The stream of one answer."""

    def __init__(self, job: Job, identity: Identity, echo: list[str] | None) -> None:
        self._job = job
        self._echo = echo
        self._head = _head(identity)
        self._offsets = [0] * job.choices
        self._opened = False
        self._tail = Tail(job.options)

    def feed(self, events: Iterable[Event]) -> bytes:
        return b"".join(self._render(event) for event in events)

    def fail(self, error: APIError) -> bytes:
        return failed(error)

    def _render(self, event: Event) -> bytes:
        self._tail.count(event)
        opening = b""
        if not self._opened and not isinstance(event, Start):
            self._opened = True
            opening = b"".join(self._echoed(index) for index in range(self._job.choices)) if self._echo else b""
        match event:
            case Delta(index=index, text=text):
                probs = _logprobs(event.logprobs, self._offsets[index])
                self._offsets[index] += len(text)
                return opening + self._chunk(index, text, probs, None)
            case Finish(index=index, reason=reason):
                return opening + self._chunk(index, "", None, reason)
            case Done(usage=counts):
                last = self._head | {"choices": [], "usage": usage(counts)}
                return (b"data: %b\n\n" % _json(last) if self._job.options.include_usage else b"") + DONE
        return opening

    def _echoed(self, index: int) -> bytes:
        prompt = self._echo[index // self._job.n] if self._echo else ""
        self._offsets[index] = len(prompt)
        return self._chunk(index, prompt, None, None)

    def _chunk(self, index: int, text: str, probs: Any, reason: str | None) -> bytes:
        choice = {"index": index, "text": text, "logprobs": probs, "finish_reason": reason}
        chunk = self._head | {"choices": [choice]}
        return b"data: %b\n\n" % _json(chunk | self._tail.fields(len(text)))
