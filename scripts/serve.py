"""`make serve`: the Truss as its image would run it, the adapter in front, until Ctrl-C or SIGTERM.

MODEL (hub id or folder), PORT and TRUSS_PORT come from the environment.
"""

import json
import os
import signal
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from scripts.assemble import assemble
from scripts.process import ServerFailed, ServerProcess, require_free
from scripts.stack import Echo, start_adapter, start_truss, truss_url, wait_adapter, wait_truss

REPOSITORY = Path(__file__).resolve().parent.parent
MODEL_NAME = "mistral-7b"
PATH_ID = "abcd1234"  # the model id of Baseten's guide, so that its snippet runs here as it is
LOAD_SECONDS = 3600.0  # a download of 14.5 GB included


@dataclass(frozen=True, slots=True)
class Running:
    """Both servers, ready. `model` is what the Truss says it serves."""

    port: int
    truss_url: str
    model: str
    truss: ServerProcess
    adapter: ServerProcess

    @property
    def base_url(self) -> str:
        return f"http://localhost:{self.port}"


@contextmanager
def serving(environment: Mapping[str, str] = os.environ) -> Iterator[Running]:
    """Both servers while the block runs; nothing of them is left after it, whatever ends it."""
    port, truss_port = int(environment.get("PORT") or 8000), int(environment.get("TRUSS_PORT") or 8080)
    require_free(port, "PORT")
    require_free(truss_port, "TRUSS_PORT")
    run_dir = REPOSITORY / ".cache" / f"serve-{port}"
    say(f"assembling the image's folder from config.yaml in {run_dir}")
    image = assemble(REPOSITORY, run_dir / "image")
    settings = {
        "models": {MODEL_NAME: {"url": truss_url(truss_port), "aliases": [PATH_ID]}},
        "observe": {"access_log": "text"},
    }
    say("starting the Truss server, which loads the model, and the adapter")
    truss_variables = model_variables(environment)
    with (
        start_truss(image, truss_port, run_dir, environment=truss_variables, echo=prefixed("truss")) as truss,
        start_adapter(settings, port, run_dir, echo=prefixed("adapter")) as adapter,
    ):
        wait_adapter(adapter, port)
        wait_truss(truss, truss_port, LOAD_SECONDS)
        truss.quiet()
        try:
            yield Running(port, truss_url(truss_port), served_model(truss_port), truss, adapter)
        finally:
            say("stopping")


def model_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """What the Truss is told: the weights that MODEL names, else config.yaml's, else the demo model."""
    variables = {}
    if token := environment.get("HF_TOKEN"):
        variables["TRUSS_SECRET_hf_access_token"] = token
    model = environment.get("MODEL", "")
    if not model:
        variables["TRUSS_MODEL_DEMO_FALLBACK"] = "true"
    elif Path(model).expanduser().is_dir():
        variables["TRUSS_MODEL_PATH"] = str(Path(model).expanduser().resolve())
    else:
        variables["TRUSS_MODEL_ID"] = model
    return variables


def served_model(truss_port: int) -> str:
    """One token from the Truss itself: proves that it answers, and tells what it serves."""
    body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}
    request = urllib.request.Request(truss_url(truss_port), json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=120) as response:
        return str(json.load(response)["model"])


def say(text: str) -> None:
    print(f"-- {text}", flush=True)


def prefixed(name: str) -> Echo:
    return lambda line: print(f"   {name} | {readable(line)}", flush=True)


def readable(line: str) -> str:
    """The Truss server logs JSON objects, of which people want the message; of a progress bar they want its end."""
    try:
        return str(json.loads(line)["message"])
    except (ValueError, KeyError, TypeError):
        return line.rpartition("\r")[2]


EXAMPLES = """
-- ready: {url}/v1 serves {model} as "{name}"   (page: {url}/  docs: {url}/docs  Truss: {truss})

curl {url}/v1/chat/completions -H 'Content-Type: application/json' \\
  -d '{{"model": "{name}", "messages": [{{"role": "user", "content": "What is a truss?"}}], "max_tokens": 64}}'

from openai import OpenAI

client = OpenAI(api_key="none", base_url="{url}/v1")
stream = client.chat.completions.create(
    model="{name}",
    messages=[{{"role": "user", "content": "What is a truss?"}}],
    max_tokens=64,
    stream=True,
)
for chunk in stream:
    print(chunk.choices[0].delta.content or "", end="", flush=True)

-- Ctrl-C stops both servers
"""


def main() -> None:
    exit_on_signals()
    try:
        with serving() as running:
            print(examples(running), flush=True)
            wait_for_end(running)
    except ServerFailed as failure:
        sys.exit(f"-- {failure}")


def examples(running: Running) -> str:
    return EXAMPLES.format(url=running.base_url, model=running.model, name=MODEL_NAME, truss=running.truss_url)


def wait_for_end(running: Running) -> None:
    while True:
        for server in (running.truss, running.adapter):
            if server.exit_code is not None:
                raise ServerFailed(f"{server.name} ended with exit code {server.exit_code}.\n{server.last_lines()}")
        time.sleep(0.5)


def exit_on_signals() -> None:
    """The first of Ctrl-C, SIGTERM and SIGHUP leaves every `with` block in order; the others are then ignored."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def leave(*_: object) -> NoReturn:
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)
        sys.exit(0)

    for number in numbers:
        signal.signal(number, leave)


if __name__ == "__main__":
    main()
