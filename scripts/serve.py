"""`make serve`: the Truss as its image would run it, the adapter in front, until Ctrl-C or SIGTERM.

MODEL (hub id or folder), PORT and TRUSS_PORT come from the environment.
"""

import json
import os
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from scripts.interrupt import Interrupt
from scripts.process import ServerFailed, ServerProcess, free_port, is_free
from scripts.truss_output import TrussOutput

REPOSITORY = Path(__file__).resolve().parent.parent
MODEL_NAME = "mistral-7b"
PATH_ID = "abcd1234"  # the model id of Baseten's guide, so that its snippet runs here as it is
LOAD_SECONDS = 3600.0  # a download of 14.5 GB included
MODEL_HELP = "MODEL names what is served: a folder of weights or a hub id. Without it the demo model is served."
DISK_HELP = (
    "The folder must be writable, with 1 MB free for this step and 300 MB for the demo model. XDG_CACHE_HOME=/folder "
    "names another place."
)


class StartFailed(Exception):
    """The message is for people: the step, the cause, what to do, a line each."""

    def __init__(self, step: str, *lines: str) -> None:
        super().__init__("\n   ".join([f"-- failed: {step}", *(line for text in lines for line in text.splitlines())]))


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
def serving(interrupt: Interrupt, environment: Mapping[str, str] = os.environ) -> Iterator[Running]:
    """Both servers while the block runs; nothing of them is left after it, whatever ends it. Raises StartFailed."""
    port, truss_port = read_ports(environment)
    run_dir = run_folder(environment, port)
    say(f"putting the image's folder together from config.yaml in {run_dir}")
    # Truss takes a second to import, during which a signal would not be noticed.
    from scripts.assemble import assemble
    from scripts.stack import start_adapter, start_truss, truss_url, wait_adapter, wait_truss

    try:
        image = assemble(REPOSITORY, run_dir / "image")
    except OSError as error:
        raise StartFailed(f"putting the image's folder together in {run_dir}", told(error), DISK_HELP) from error
    interrupt.check()
    settings = {
        "models": {MODEL_NAME: {"url": truss_url(truss_port), "aliases": [PATH_ID]}},
        "observe": {"access_log": "text"},
    }
    say("starting the Truss server, which loads the model, and the adapter")
    output = TrussOutput(tell=lambda line: print(f"   model | {line}", flush=True))

    def waiting() -> None:
        interrupt.check()
        output.waiting()
        if output.refused:
            raise ServerFailed("The model cannot be loaded.")

    with (
        start_truss(image, truss_port, run_dir, environment=model_variables(environment), echo=output) as truss,
        start_adapter(settings, port, run_dir, echo=tell_request) as adapter,
    ):
        try:
            wait_adapter(adapter, port, waiting=interrupt.check)
        except ServerFailed as failure:
            raise StartFailed("starting the adapter", str(failure)) from failure
        try:
            wait_truss(truss, truss_port, LOAD_SECONDS, waiting)
            with interrupt.anywhere():
                model = served_model(truss_url(truss_port))
        except (ServerFailed, OSError) as failure:
            cause = [output.error] if output.error else [told(failure), *output.last_lines]
            where = f"The whole log: {truss.log}"
            raise StartFailed("loading the model", *cause, MODEL_HELP, where) from failure
        truss.quiet()
        try:
            yield Running(port, truss_url(truss_port), model, truss, adapter)
        finally:
            say("stopping")


def read_ports(environment: Mapping[str, str]) -> tuple[int, int]:
    """The adapter's and the Truss server's. Raises StartFailed unless both can be listened on."""
    ports = {"PORT": 8000, "TRUSS_PORT": 8080}
    for variable in ports:
        if text := environment.get(variable):
            if not text.isdecimal() or not 0 < int(text) < 65536:
                raise StartFailed("reading the ports", f"{variable} is {text}; it must be a number from 1 to 65535.")
            ports[variable] = int(text)
    if ports["PORT"] == ports["TRUSS_PORT"]:
        raise StartFailed("reading the ports", f"PORT and TRUSS_PORT are both {ports['PORT']}; they must differ.")
    for variable, port in ports.items():
        if not is_free(port):
            free = f"Choose another one, for example {variable}={free_port()}."
            raise StartFailed("listening", f"Port {port} is taken by another program.", free)
    return ports["PORT"], ports["TRUSS_PORT"]


def run_folder(environment: Mapping[str, str], port: int) -> Path:
    """Where the image's folder and the logs are: the user's cache, so that the checkout holds the code once."""
    cache = environment.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "truss-openai-bridge" / f"serve-{port}"


def told(error: Exception) -> str:
    """The reason in a line, with the file that it is about."""
    if isinstance(error, OSError) and error.strerror:
        file = error.filename2 or error.filename  # the one written, where one is copied to another
        return f"{error.strerror}: {file}" if file else error.strerror
    return error.reason if isinstance(error, ServerFailed) else str(error)


def model_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """What the Truss is told: the weights that MODEL names, else config.yaml's, else the demo model."""
    variables = {"TRUSS_MODEL_DEMO_FALLBACK": "true"}  # config.yaml's accelerator is Baseten's, not this machine's
    if token := environment.get("HF_TOKEN"):
        variables["TRUSS_SECRET_hf_access_token"] = token
    model = environment.get("MODEL", "")
    if model and Path(model).expanduser().is_dir():
        variables["TRUSS_MODEL_PATH"] = str(Path(model).expanduser().resolve())
    elif model:
        variables["TRUSS_MODEL_ID"] = model
    return variables


def served_model(url: str) -> str:
    """One token from the Truss itself: proves that it answers, and tells what it serves."""
    body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}
    request = urllib.request.Request(url, json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=120) as response:
        return str(json.load(response)["model"])


def say(text: str) -> None:
    print(f"-- {text}", flush=True)


def tell_request(line: str) -> None:
    """A line of the adapter's log, but for those of the looks at its health."""
    if " route=health " not in line:
        print(f"   adapter | {line}", flush=True)


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
    interrupt = Interrupt()
    try:
        with serving(interrupt) as running:
            print(examples(running), flush=True)
            wait_for_end(running, interrupt)
    except (StartFailed, ServerFailed) as failure:
        sys.exit(str(failure))


def examples(running: Running) -> str:
    return EXAMPLES.format(url=running.base_url, model=running.model, name=MODEL_NAME, truss=running.truss_url)


def wait_for_end(running: Running, interrupt: Interrupt) -> None:
    with interrupt.anywhere():
        while True:
            for server in (running.truss, running.adapter):
                if server.exit_code is not None:
                    raise ServerFailed(f"-- {server.end()}", server.last_lines(5))
            time.sleep(0.5)


if __name__ == "__main__":
    main()
