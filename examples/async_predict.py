"""Baseten's asynchronous predict: the request is queued there, the answer comes to a webhook. No adapter in between.

BASETEN_API_KEY is the key; the webhook must be reachable from Baseten, so here a tunnel to port 9000 is assumed.
"""

import json
import os
import urllib.request
from http.server import BaseHTTPRequestHandler, HTTPServer

MODEL = "https://model-abcd1234.api.baseten.co/production"
WEBHOOK = "https://your-tunnel.example/answers"


class Answers(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        told = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200)
        self.end_headers()
        print(told["request_id"], told["data"]["choices"][0]["text"])


webhook = HTTPServer(("127.0.0.1", 9000), Answers)
body = {
    "model_input": {"messages": [{"role": "user", "content": "What is a truss bridge?"}], "max_tokens": 32},
    "webhook_endpoint": WEBHOOK,
}
request = urllib.request.Request(
    f"{MODEL}/async_predict",
    json.dumps(body).encode(),
    {"Authorization": f"Api-Key {os.environ['BASETEN_API_KEY']}", "Content-Type": "application/json"},
)
with urllib.request.urlopen(request) as response:
    print("queued as", json.load(response)["request_id"])
webhook.handle_request()
webhook.server_close()
