"""Is it right, before it is fast: our forward on the device against transformers' own; and where a step's time goes."""

import asyncio
from typing import Any

import torch
from transformers import PreTrainedModel

from benchmarks.gpu_model import make_model
from benchmarks.gpu_runs import Load
from truss_model.engine.engine import Engine
from truss_model.engine.execution.model_runner import ModelRunner
from truss_model.engine.generation import Generation
from truss_model.engine.sampling_params import SamplingParams
from truss_model.engine.scheduling.row import Row
from truss_model.engine.scheduling.scheduler import Chunk, StepPlan

CHECKED = 300  # tokens of the prompt that both forwards see: several pages, several blocks of the kernels


def reference_logits(model: PreTrainedModel) -> tuple[list[int], torch.Tensor]:
    """transformers' own forward over one prompt -> the prompt and the last 32 positions' logits."""
    prompt = Load(1, min(CHECKED, model.config.max_position_embeddings // 2), 1).prompts(model.config.vocab_size)[0]
    with torch.inference_mode():
        logits = model(torch.tensor([prompt], device=model.device)).logits[0, -32:]
    return prompt, logits.float()


def our_logprobs(runner: ModelRunner, prompt: list[int]) -> list[dict[int, float]]:
    """The 20 likeliest tokens after each of the last 32 tokens: the first by a prompt's step, others by decoding."""
    pages = list(range(-(-len(prompt) // runner.kv.page_size) + 1))
    row = Row(Generation(1, 1, lambda *_: None), 0, list(prompt), len(prompt),
              SamplingParams(temperature=0.0, top_logprobs=20), 0, pages=pages)  # fmt: skip
    begin = len(prompt) - 31
    found: list[dict[int, float]] = []
    for start, count in [(0, begin), *((at, 1) for at in range(begin, len(prompt)))]:
        entry = runner.step(StepPlan([Chunk(row, start, count, samples=True)])).logprobs[0]
        assert entry is not None
        found.append(dict(entry.top))
    return found


def compare(runner: ModelRunner, prompt: list[int], reference: torch.Tensor) -> dict[str, float]:
    """Distance of log-probabilities of our likeliest tokens to transformers', and how often the first is the same."""
    wanted = reference.log_softmax(-1)
    found = our_logprobs(runner, prompt)
    same = sum(
        max(ours, key=lambda token: ours[token]) == int(line.argmax()) for ours, line in zip(found, wanted, strict=True)
    )
    gaps = [
        abs(value - float(line[token]))
        for ours, line in zip(found, wanted, strict=True)
        for token, value in ours.items()
    ]
    return {
        "top1_agreement": same / len(found),
        "logprob_gap_mean": sum(gaps) / len(gaps),
        "logprob_gap_max": max(gaps),
    }


def tiny_check(device: torch.device, engine_of: Any) -> dict[str, float]:
    """A tiny model in float32: our greedy tokens on the device against `generate` on the CPU."""
    plain = make_model(torch.device("cpu"), tiny=True, dtype=torch.float32)
    prompts = Load(4, 40, 1).prompts(plain.config.vocab_size)
    wanted = [
        plain.generate(torch.tensor([prompt]), max_new_tokens=24, do_sample=False, pad_token_id=0)[  # type: ignore[operator]
            0, len(prompt) :
        ].tolist()
        for prompt in prompts
    ]
    engine: Engine = engine_of(make_model(device, tiny=True, dtype=torch.float32))
    try:
        got = answers(engine, prompts, 24)
    finally:
        engine.stop()
    same = sum(a == b for one, other in zip(got, wanted, strict=True) for a, b in zip(one, other, strict=True))
    return {"tokens_equal": same / sum(map(len, wanted))}


def answers(engine: Engine, prompts: list[list[int]], tokens: int) -> list[list[int]]:
    async def row(prompt: list[int]) -> list[int]:
        made: list[int] = []
        async for outputs in engine.submit(prompt, SamplingParams(max_tokens=tokens, temperature=0.0)).outputs():
            made += [token for output in outputs for token in output.token_ids]
        return made

    async def every() -> list[list[int]]:
        return await asyncio.gather(*map(row, prompts))

    return asyncio.run(every())


def profile(engine: Engine, load: Load, vocab: int, steps: int = 32) -> dict[str, Any]:
    """Kernel time by name, milliseconds a step, over `steps` steps in which all rows decode."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as record

    async def window() -> tuple[Any, int]:
        params = SamplingParams(max_tokens=16 * steps, temperature=0.0, ignore_eos=True)
        generations = [engine.submit(prompt, params) for prompt in load.prompts(vocab)]
        streams = [generation.outputs() for generation in generations]
        for stream in streams:
            await anext(stream)
        with record(activities=[ProfilerActivity.CUDA]) as trace:
            before = engine.stats().steps
            while engine.stats().steps < before + steps:
                await anext(streams[0])
            torch.cuda.synchronize()
            done = engine.stats().steps - before
        for generation in generations:
            generation.cancel()
        return trace, done

    trace, done = asyncio.run(window())
    spent = {event.key[:90]: event.self_device_time_total / 1e3 / done for event in trace.key_averages()}
    top = sorted(spent.items(), key=lambda entry: -entry[1])[:20]
    return {"steps": done, "kernels_ms_a_step": {name: value for name, value in top if value > 0}}
