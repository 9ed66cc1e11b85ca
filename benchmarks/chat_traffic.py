"""Made-up chats of several turns, the same for the same seed: when they begin, how long their messages are."""

import math
from dataclasses import dataclass
from random import Random

from bridge_adapter.upstream.affinity import conversation_key

APPLICATIONS = 20  # each has a system prompt of its own
SYSTEM = 1000  # tokens
FIRST = 1500  # tokens of the first message at the median: a question with a document
LATER = 250  # tokens of a later message at the median
ANSWER = 250  # tokens at the median
TURNS = 5.0  # on average, at least one
MOST_TURNS = 30
PAUSE = 8.0  # seconds between an answer and the next message, on average
SAME_BEGINNING = 0.01  # share of the chats that all begin with the same words: a key that is too much for one replica


@dataclass(frozen=True, slots=True)
class Chat:
    """turns: (tokens of the message, tokens of the answer, seconds before the next one)."""

    began: float
    application: int
    key: bytes | None
    turns: tuple[tuple[int, int, float], ...]


def make_chats(count: int, per_second: float, seed: int, same: float = SAME_BEGINNING) -> list[Chat]:
    """Chats that begin independently of each other, `per_second` on average; `same`: the share with one beginning."""
    random = Random(seed)
    began, chats = 0.0, []
    for number in range(count):
        began += random.expovariate(per_second)
        application = int(random.paretovariate(1.0)) % APPLICATIONS  # a few have most of the traffic
        words = "Hello!" if random.random() < same else f"Question {number}"
        turns = min(MOST_TURNS, 1 + int(random.expovariate(1.0) / -math.log(1 - 1 / TURNS)))
        body = {
            "messages": [
                {"role": "system", "content": f"You are application {application}."},
                {"role": "user", "content": words},
            ]
        }
        lengths = [(_length(random, LATER if turn else FIRST), _length(random, ANSWER)) for turn in range(turns)]
        pauses = [random.expovariate(1 / PAUSE) for _ in range(turns)]
        made = tuple((message, answer, pause) for (message, answer), pause in zip(lengths, pauses, strict=True))
        chats.append(Chat(began, application, conversation_key(body), made))
    return chats


def _length(random: Random, median: int) -> int:
    return max(1, min(8 * median, round(median * math.exp(random.gauss(0.0, 0.7)))))
