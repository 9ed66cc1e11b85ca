"""What the untouched model makes of a fixed text, and how far from it rounding may lead."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import nn
from transformers import PreTrainedModel

from truss_model.engine.execution.limits import Limits
from truss_model.engine.execution.narrow_window import narrowed, window_of

TOKENS = {"cuda": 320, "cpu": 160}  # of the text that is compared
LARGE_ON_CPU = 1_000_000_000  # parameters; a model of more computes a third of the text there
LONGEST = {"cuda": 1152, "cpu": 640}  # so far the text grows to cross a sliding window; wider ones are made narrow
NARROW = 50  # tokens; no multiple of a page or of a kernel's tile
PROMPT_POSITIONS = 32  # of the prompt's, evenly spread
DECODES = 4  # steps of one row, and of several
TOP = 20  # likeliest tokens that are compared in half precision

# Largest distance of two log-probabilities that rounding explains. In float32: of any token at any position. In half
# precision a model of dozens of layers rounds some hundred times in a row: 40 units of the last place for the mean of
# the likeliest tokens at the median position (SmolLM2 in bfloat16 on the CPU: 13); single positions, where a router
# chose other experts, may be further off.
FLOAT32_BAR = 1e-3
UNITS_IN_THE_LAST_PLACE = 40
WORST_POSITION = 8.0
QUANTIZED = 4.0  # kernels may quantise the activations, too, with three bits of mantissa


@dataclass(frozen=True, slots=True)
class Bar:
    """How far log-probabilities may be apart."""

    typical: float
    worst: float
    every_token: bool

    @classmethod
    def of(cls, dtype: torch.dtype, *, quantized: bool) -> Self:
        factor = QUANTIZED if quantized else 1.0
        if dtype == torch.float32:
            return cls(FLOAT32_BAR * factor, FLOAT32_BAR * factor, every_token=True)
        typical = UNITS_IN_THE_LAST_PLACE * torch.finfo(dtype).eps / 2 * factor
        return cls(typical, WORST_POSITION * typical, every_token=False)


@dataclass(frozen=True, slots=True)
class Reference:
    """logprobs: float32 [len(positions), vocab]. lengths: prompt tokens of the rows. dtype: of the computation.

    window: the sliding window that the model had, if not its own.
    """

    tokens: list[int]
    lengths: list[int]
    logprobs: torch.Tensor
    positions: dict[int, int]
    dtype: torch.dtype
    quantized: bool
    window: int | None = None

    @classmethod
    @torch.inference_mode()
    def of(cls, model: PreTrainedModel, limits: Limits, text: Sequence[int] = (), *, window: int | None = None) -> Self:
        """Compute it, by the model's forward as transformers made it. text: token ids; made up if there are none."""
        size = text_size(model, limits)
        tokens = [*text, *made_up(size, int(model.config.vocab_size))][:size]
        lengths = row_lengths(size, limits)
        prompt = lengths[0]
        positions = {prompt * (i + 1) // PROMPT_POSITIONS - 1 for i in range(PROMPT_POSITIONS)} - {-1}
        for length in lengths:
            positions.update(range(length - 1, min(length + 2 * DECODES + 1, size)))
        chosen = sorted(positions)
        quantized = getattr(model, "hf_quantizer", None) is not None
        # Most CPUs multiply in half precision by software only, and the kernels calculate in float32 on those.
        wide = model.device.type == "cpu" and model.dtype != torch.float32 and not quantized
        with narrowed(model, window), calculating_in_float32(model, really=wide):
            made = model(
                input_ids=torch.tensor([tokens], device=model.device),
                use_cache=False,
                logits_to_keep=torch.tensor(chosen, device=model.device),
            )
        logprobs = made.logits[0].float().log_softmax(-1).cpu()  # a GPU's memory is being shared out
        dtype = torch.float32 if wide else model.dtype
        return cls(tokens, lengths, logprobs, {at: i for i, at in enumerate(chosen)}, dtype, quantized, window)

    def bar(self, dtype: torch.dtype) -> Bar:
        """How far a computation in `dtype` may be from this one."""
        coarser = max(self.dtype, dtype, key=lambda kind: torch.finfo(kind).eps)
        return Bar.of(coarser, quantized=self.quantized)

    def gaps(self, logits: torch.Tensor, positions: Sequence[int], bar: Bar) -> torch.Tensor:
        """The distance at each position; infinite where a number is none. logits [len(positions), vocab]."""
        wanted = self.logprobs[[self.positions[at] for at in positions]].to(logits.device)
        ours = logits.float().log_softmax(-1)
        apart = (ours - wanted).abs().masked_fill(ours == wanted, 0.0)
        if bar.every_token:
            gaps = apart.amax(-1)
        else:
            gaps = apart.gather(1, wanted.topk(min(TOP, wanted.shape[1]), -1).indices).mean(-1)
        # Another likeliest token is an error, unless the two are as likely as each other.
        lost = wanted.amax(-1) - wanted.gather(1, ours.argmax(-1, keepdim=True))[:, 0]
        return torch.where(lost > 2 * bar.worst, lost, gaps).nan_to_num(float("inf")).cpu()


def text_size(model: PreTrainedModel, limits: Limits) -> int:
    """Tokens of the text: some hundred, more to cross a window, no more than fit into the pages."""
    kind = "cuda" if model.device.type == "cuda" else "cpu"
    size = TOKENS[kind]
    if kind == "cpu" and sum(parameter.numel() for parameter in model.parameters()) > LARGE_ON_CPU:
        size //= 3
    if window_of(model) + 64 <= LONGEST[kind]:
        size = max(size, window_of(model) + 64)
    return min(size, limits.max_model_len, limits.pages * limits.page_size)


def windows_to_check(model: PreTrainedModel, limits: Limits) -> list[int | None]:
    """None: the model's own. A narrow one before it, where requests can cross the model's own and the text does not."""
    text, window = text_size(model, limits), window_of(model)
    return [NARROW, None] if limits.max_model_len > window >= text > NARROW else [None]


def row_lengths(size: int, limits: Limits) -> list[int]:
    """Prompt tokens of each row: the first has all but what is decoded, others are shorter."""
    first = max(size - 2 * DECODES - 2, 1)
    return [first, *(max(first // part, 1) for part in (2, 5))][: limits.max_rows]


def made_up(count: int, vocabulary: int) -> list[int]:
    """Token ids without an end, always the same."""
    return [(1 + 7919 * (at + 1) * (at + 3)) % vocabulary for at in range(count)]


@contextmanager
def calculating_in_float32(model: PreTrainedModel, *, really: bool) -> Iterator[None]:
    """Each module's own parameters are widened while it runs; beside the model there is never more than one of them."""
    handles = []
    for module in model.modules() if really else ():
        if any(parameter.is_floating_point() for parameter in module.parameters(recurse=False)):
            held: dict[str, torch.Tensor] = {}
            handles.append(module.register_forward_pre_hook(_widen(held)))
            handles.append(module.register_forward_hook(_narrow(held), always_call=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _widen(held: dict[str, torch.Tensor]) -> Any:
    def before(module: nn.Module, arguments: object) -> None:
        for name, parameter in module.named_parameters(recurse=False):
            held[name] = parameter.data
            parameter.data = parameter.data.float()

    return before


def _narrow(held: dict[str, torch.Tensor]) -> Any:
    def after(module: nn.Module, arguments: object, output: object) -> None:
        for name, parameter in module.named_parameters(recurse=False):
            parameter.data = held.pop(name)

    return after
