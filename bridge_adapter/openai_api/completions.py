"""/completions: request -> job, and the whole answer. Pure; the streamed form is its own module."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

import msgspec

from bridge_adapter.contract import Choice, Job, PromptToken, Result
from bridge_adapter.errors import InvalidRequest, unsupported_parameter
from bridge_adapter.openai_api import validators
from bridge_adapter.openai_api.answers import Identity, prompt_logprobs, usage
from bridge_adapter.openai_api.completions_stream import (
    CompletionChunks,
    completion_head,
    completion_logprobs,
    prompt_part,
)
from bridge_adapter.openai_api.parameter import (
    Parameter,
    Parameters,
    boolean,
    integer,
    without_effect,
)
from bridge_adapter.openai_api.parameters import (
    MAX_NEW_TOKENS,
    MODEL,
    PROMPT_LOGPROBS,
    SAMPLING,
    STREAM,
    STREAM_OPTIONS,
    USER,
    check_prompt_logprobs,
    check_stream_pair,
    check_token_limits,
    stream_options,
)
from bridge_adapter.openai_api.sse import Renderer

_DEFAULT_MAX_TOKENS = 16  # OpenAI's, for this route only
_MOST_PROMPTS = 128
_json = msgspec.json.encode


def check_prompt(value: Any, param: str) -> list[str | list[int]]:
    """One prompt or several, as a list of prompts."""
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list):
        raise validators.wrong_type(
            param, "one of a string, array of strings, array of integers or array of arrays", value
        )
    items = validators.array(value, param, of="strings or integers")
    if isinstance(items[0], int | float) and not isinstance(items[0], bool):
        return [_token_ids(items, param)]
    if len(items) > _MOST_PROMPTS:
        validators.array(value, param, longest=_MOST_PROMPTS)
    return [
        _token_ids(item, f"{param}[{i}]") if isinstance(item, list) else validators.string(item, f"{param}[{i}]")
        for i, item in enumerate(items)
    ]


def _token_ids(value: Any, param: str) -> list[int]:
    check = validators.integer(0)
    return [check(item, f"{param}[{i}]") for i, item in enumerate(validators.array(value, param, of="integers"))]


def _no_suffix(value: Any, param: str) -> str:
    if validators.string(value, param):
        raise unsupported_parameter(param)
    return ""


COMPLETIONS = Parameters(
    MODEL,
    Parameter(
        "prompt",
        check_prompt,
        {"type": ["string", "array"], "description": "One prompt or several, as text or as token ids."},
        in_predict=False,
    ),
    MAX_NEW_TOKENS,
    *SAMPLING,
    Parameter(
        "logprobs",
        *integer(0, 5, "Return log probabilities, with this number of likeliest tokens at each position."),
        in_predict=False,
    ),
    PROMPT_LOGPROBS,
    Parameter("echo", *boolean("Repeat the prompt before the text."), in_predict=False),
    Parameter(
        "best_of", *integer(0, 20, "Number of choices to generate, of which the n likeliest are returned."), False
    ),
    without_effect("suffix", _no_suffix, {"enum": ["", None], "description": "No effect."}),
    STREAM,
    STREAM_OPTIONS,
    USER,
)


@dataclass(frozen=True, slots=True)
class CompletionPlan:
    """`shown`: the number of the job's n choices of each prompt to return, the likeliest first.

    `echo`: repeat the prompts. `logprobs` and `prompt_logprobs`: as requested; the job may ask for more.
    """

    job: Job
    shown: int
    echo: bool
    logprobs: int | None
    prompt_logprobs: int | None

    def answer(self, identity: Identity, result: Result) -> bytes:
        choices = [
            self._choice(choice, index, result.prompt(index // self.shown))
            for index, choice in enumerate(self._chosen(result.choices))
        ]
        return _json(completion_head(identity) | {"choices": choices, "usage": usage(result.usage)})

    def renderer(self, identity: Identity) -> Renderer:
        return CompletionChunks(self, identity)

    def echoed(self, body: int, tokens: list[PromptToken] | None) -> str:
        """The text of a prompt, of whose token ids `tokens` has the text."""
        prompt = self.job.bodies[body]["prompt"]
        if isinstance(prompt, str):
            return prompt
        return bytes(chain.from_iterable(token.bytes for token in tokens or ())).decode("utf-8", "replace")

    def _chosen(self, choices: list[Choice]) -> list[Choice]:
        if self.shown == self.job.n:
            return choices
        groups = [choices[start : start + self.job.n] for start in range(0, len(choices), self.job.n)]
        return [choice for group in groups for choice in sorted(group, key=_likelihood, reverse=True)[: self.shown]]

    def _choice(self, choice: Choice, index: int, tokens: list[PromptToken] | None) -> dict[str, Any]:
        before = self.echoed(index // self.shown, tokens) if self.echo else ""
        shown: dict[str, Any] = {
            "index": index,
            "text": before + (choice.text or ""),
            "logprobs": None,
            "finish_reason": choice.finish_reason,
        }
        if self.logprobs is not None:
            generated = completion_logprobs(choice.logprobs or [], len(before))
            prompt = prompt_part(tokens or [], self.logprobs) if self.echo else {}
            shown["logprobs"] = {name: prompt.get(name, []) + values for name, values in generated.items()}
        if self.prompt_logprobs is not None:
            shown["prompt_logprobs"] = prompt_logprobs(tokens)
        return shown


def plan_completion(body: Mapping[str, Any]) -> CompletionPlan:
    checked = COMPLETIONS.check(body)
    if "prompt" not in checked:
        raise validators.missing("prompt")
    echo = checked.get("echo", False)
    asks_for_prompt = "prompt_logprobs" in checked or (echo and "logprobs" in checked)
    check_token_limits(checked, COMPLETIONS, least=0 if asks_for_prompt else 1)
    check_prompt_logprobs(checked)
    check_stream_pair(checked)
    shown = checked.get("n", 1)
    made = _made(checked, shown)
    sampling = COMPLETIONS.predict_fields(checked | {"n": made})
    if "logprobs" in checked:
        sampling |= {"logprobs": True, "top_logprobs": checked["logprobs"]}
    elif made > shown:
        sampling["logprobs"] = True
    if echo and "logprobs" in checked:
        sampling["prompt_logprobs"] = max(checked["logprobs"], checked.get("prompt_logprobs", 0))
    bodies = [{**sampling, "prompt": prompt} for prompt in checked["prompt"]]
    for body in bodies:
        if echo and not isinstance(body["prompt"], str):
            body.setdefault("prompt_logprobs", 0)  # brings the text of the prompt's tokens
    job = Job(
        bodies,
        made,
        checked.get("stream", False),
        stream_options(checked),
        names=COMPLETIONS.predict_names(checked) | ({"n": "best_of"} if made > shown else {}),
        default_max_tokens=_DEFAULT_MAX_TOKENS,
    )
    return CompletionPlan(job, shown, echo, checked.get("logprobs"), checked.get("prompt_logprobs"))


def _made(checked: Mapping[str, Any], shown: int) -> int:
    made: int = checked.get("best_of", 0) or shown
    if made < shown:
        raise InvalidRequest(f"'best_of' must be at least 'n': it is {made}, 'n' is {shown}.", param="best_of")
    if made > shown and checked.get("stream"):
        raise InvalidRequest("Cannot stream results with best_of > n.", param="best_of")
    return made


def _likelihood(choice: Choice) -> float:
    tokens = choice.logprobs or []
    return sum(token.logprob for token in tokens) / len(tokens) if tokens else float("-inf")
