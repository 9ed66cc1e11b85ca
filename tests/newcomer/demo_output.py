"""What `make demo` printed, checked: the conversation is held twice, plain and streamed, with the same answer."""

import re
import sys
from pathlib import Path

COUNTS = r"finish_reason=(stop|length) usage=prompt_tokens (\d+), completion_tokens (\d+), total_tokens (\d+)"


def check(printed: str) -> None:
    answers = re.findall(r"^(?:assistant| streamed): (.+)$", printed, re.MULTILINE)[-2:]
    counts = re.findall(COUNTS, printed)
    if len(answers) != 2 or answers[0].strip() != answers[1].strip() or len(answers[0].split()) < 5:
        sys.exit(f"make demo did not print the same answer twice: {answers}")
    if len(counts) != 2 or counts[0] != counts[1]:
        sys.exit(f"make demo did not print the same finish_reason and usage twice: {counts}")
    prompt, completion, total = map(int, counts[0][1:])
    if not (prompt > 40 and completion > 5 and prompt + completion == total):
        sys.exit(f"make demo's usage is wrong: {counts[0]}")
    print(f"== make demo answered: {answers[0].strip()} ({counts[0][0]}, {prompt} + {completion} tokens)")


if __name__ == "__main__":
    check(Path(sys.argv[1]).read_text())
