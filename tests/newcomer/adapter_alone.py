"""The installed adapter before a stub of a Truss: one request, the page with all its files. Imports nothing of ours.

Run with the Python of an environment that holds the adapter's wheel and what it requires, anywhere but the checkout.
"""

import json
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

ANSWER = {
    "choices": [{"index": 0, "text": "In Arlington.", "finish_reason": "stop", "logprobs": None}],
    "usage": {"prompt_tokens": 7, "completion_tokens": 4, "total_tokens": 11, "cached_tokens": 0},
    "model": "stub",
}
SECONDS_TO_START = 60


class Truss(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        body = json.dumps(ANSWER).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def get(url: str, body: object = None) -> bytes:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"} if data else {})
    with urllib.request.urlopen(request, timeout=30) as response:
        content: bytes = response.read()
    return content


def started(adapter: "subprocess.Popen[str]") -> str:
    """The URL that it says it listens on, once it answers there."""
    assert adapter.stderr is not None
    line = adapter.stderr.readline()
    found = re.search(r"http://\S+", line)
    if found is None:
        sys.exit(f"the adapter did not start: {line}{adapter.stderr.read()}")
    Thread(target=adapter.stderr.read, daemon=True).start()
    end = time.monotonic() + SECONDS_TO_START
    while True:
        try:
            get(f"{found[0]}/health/live")
            return found[0]
        except urllib.error.URLError:
            if time.monotonic() > end or adapter.poll() is not None:
                raise
            time.sleep(0.1)


def check(url: str) -> None:
    messages = [{"role": "user", "content": "Where was it played?"}]
    answer = json.loads(get(f"{url}/v1/chat/completions", {"model": "stub", "messages": messages}))
    assert answer["choices"][0]["message"]["content"] == "In Arlington.", answer
    assert (answer["choices"][0]["finish_reason"], answer["usage"]["total_tokens"]) == ("stop", 11), answer
    page = get(f"{url}/").decode()
    files = sorted(set(re.findall(r'(?:src|href)="/?(assets/[^"]+)"', page)))
    assert len(files) > 2, page
    empty = [file for file in (*files, "docs", "openapi.json") if not get(f"{url}/{file}")]
    assert empty == [], f"empty files of the page: {empty}"
    print(f"== the adapter alone answered; its page and the {len(files)} files of it are there")


def main() -> None:
    truss = ThreadingHTTPServer(("127.0.0.1", 0), Truss)
    Thread(target=truss.serve_forever, daemon=True).start()
    settings = Path("alone.yaml")
    url = f"http://127.0.0.1:{truss.server_port}/v1/models/model:predict"
    settings.write_text(json.dumps({"models": {"stub": {"url": url}}, "server": {"port": 0}}))
    command = [str(Path(sys.executable).with_name("bridge-adapter")), "serve", "--config", str(settings)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as adapter:
        try:
            check(started(adapter))
        finally:
            adapter.terminate()


if __name__ == "__main__":
    main()
