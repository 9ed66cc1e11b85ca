"""'Copy as': the code is the request itself, and runs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from playwright.sync_api import Page

from tests.browser.actions import ask, behind, finished, open_settings
from tests.browser.scripted_truss import ScriptedTruss, text

pytestmark = pytest.mark.browser

HERE = Path(__file__).parent
QUESTION = "It's \"quoted\" and $HOME `ls` \\n \N{SNOWMAN}, isn't it?"
COMMANDS = {
    "Python": [sys.executable, "-"],
    "Node": ["node", "--input-type=module", "-"],
    "curl": ["sh", "-s"],
}


@pytest.mark.parametrize("language", COMMANDS)
def test_the_code_sends_what_the_page_sent(page: Page, truss: ScriptedTruss, language: str) -> None:
    truss.answer(QUESTION, [text("It ran.")])
    panel = open_settings(page)
    panel.get_by_label("System text").fill("Two\nlines, it's true.")
    panel.get_by_label("Stop, one a line").fill("END")
    panel.get_by_label("Answer as").select_option("json_schema")
    panel.get_by_role("button", name="Add a tool").click()
    answer = finished(ask(page, QUESTION))
    sent = truss.bodies[-1]
    code = behind(page, answer, language)
    ran = subprocess.run(
        COMMANDS[language],
        input=code,
        capture_output=True,
        text=True,
        cwd=HERE,
        env={**os.environ, "OPENAI_API_KEY": "any"},
        timeout=60,
        check=False,
    )
    assert (ran.returncode, "It ran." in ran.stdout) == (0, True), ran.stderr
    assert truss.bodies[-1] == sent
    assert truss.bodies[-1] is not sent
