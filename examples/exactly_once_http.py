"""An effect behind HTTP, exactly once: the receiver takes the key, and refuses tokens that were overtaken.

    python examples/exactly_once_http.py

The receiver here stands for any service that knows an `Idempotency-Key`. It also compares the fencing
token, so that an attempt which was frozen for an hour cannot write over its successor.
"""

import asyncio
import json
import threading
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

from murmur import Actor, AgentRuntime


class Receiver(BaseHTTPRequestHandler):
    """Sends a letter for each new key; a known key gets the old answer, an overtaken token a 409."""

    letters: ClassVar[dict[str, str]] = {}
    tokens: ClassVar[dict[str, int]] = {}
    lock: ClassVar[threading.Lock] = threading.Lock()

    def do_POST(self) -> None:
        key, token = self.headers["Idempotency-Key"], int(self.headers["Fencing-Token"])
        text = self.rfile.read(int(self.headers["Content-Length"])).decode()
        with self.lock:
            is_overtaken = token < self.tokens.get(key, 0)
            if not is_overtaken:
                self.tokens[key] = token
                self.letters.setdefault(key, text)
        self.send_response(409 if is_overtaken else 200)
        self.end_headers()
        self.wfile.write(json.dumps({"sent": self.letters[key]}).encode())

    def log_message(self, *_: object) -> None:
        """Keep quiet."""


class Sender(Actor[str, str]):
    """Has a letter sent, and returns what was sent."""

    url: ClassVar[str]
    lost: ClassVar[int] = 1  # how many attempts break after the letter was sent

    async def receive(self, text: str) -> str:
        sent = await asyncio.to_thread(send, self.url, self.context.idempotency_key, self.context.token, text)
        if Sender.lost:
            Sender.lost -= 1
            raise ConnectionError("gone after the letter, before the result")
        return sent


def send(url: str, key: str, token: int, text: str) -> str:
    """Post a letter under a key and a fencing token; return what the receiver says it sent."""
    headers = {"Idempotency-Key": key, "Fencing-Token": str(token)}
    request = urllib.request.Request(url, data=text.encode(), headers=headers, method="POST")  # noqa: S310  the URL is ours
    with urllib.request.urlopen(request, timeout=10) as response:  # noqa: S310
        return str(json.loads(response.read())["sent"])


async def main() -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    Sender.url = f"http://127.0.0.1:{server.server_port}"
    async with AgentRuntime() as runtime:
        result = await runtime.run(Sender, "Dear reader")
    server.shutdown()
    server.server_close()
    print(f"{len(Receiver.letters)} letter sent in {result.metadata.attempts} attempts")


if __name__ == "__main__":
    asyncio.run(main())
