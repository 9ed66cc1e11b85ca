"""The rival most examples show: a thread a request, each with its own `generate` and a TextIteratorStreamer, over HTTP.

`python -m benchmarks.naive FOLDER PORT [float32|bfloat16]`. OpenAI's stream, and no more of the API than a load needs.
"""

import json
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, TextIteratorStreamer


class NaiveModel:
    """What Baseten's streaming examples do in `predict`."""

    def __init__(self, folder: str, dtype: torch.dtype) -> None:
        self._tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        self._model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)

    def stream(self, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        inputs = self._tokenizer.apply_chat_template(
            body["messages"], add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        streamer = TextIteratorStreamer(self._tokenizer, skip_prompt=True, skip_special_tokens=True)
        made: list[torch.Tensor] = []
        tokens = int(body["max_tokens"])
        options = {"max_new_tokens": tokens, "min_new_tokens": tokens if body.get("ignore_eos") else 0}

        def run() -> None:
            with torch.inference_mode():
                made.append(self._model.generate(**inputs, streamer=streamer, do_sample=False, **options))

        thread = Thread(target=run)
        thread.start()
        for text in streamer:
            yield {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]}
        thread.join()
        prompt = int(inputs["input_ids"].shape[1])
        usage = {"prompt_tokens": prompt, "completion_tokens": int(made[0].shape[1]) - prompt}
        yield {"choices": [{"index": 0, "delta": {}, "finish_reason": "length"}], "usage": usage}


class Handler(BaseHTTPRequestHandler):
    """One thread each, from `ThreadingHTTPServer`."""

    model: NaiveModel

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        for event in self.model.stream(body):
            self.wfile.write(b"data: " + json.dumps(event).encode() + b"\n\n")
        self.wfile.write(b"data: [DONE]\n\n")

    def log_message(self, format: str, *args: object) -> None:
        return None


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


def main() -> None:
    folder, port, dtype = sys.argv[1], int(sys.argv[2]), getattr(torch, sys.argv[3])
    Handler.model = NaiveModel(folder, dtype)
    with Server(("127.0.0.1", port), Handler) as server:
        server.serve_forever()


if __name__ == "__main__":
    main()
