"""`codellama chat` and `codellama predict` at a real terminal: keys typed into a pseudo-terminal, Ctrl-C while MindSpore computes.

Signals are tried on a process of their own, because MindSpore replaces their handlers while a graph runs: Ctrl-C
would otherwise end the program without a word.
"""

import os
import pty
import select
import signal
import subprocess
import sys
import time

import pytest

COMMAND = [sys.executable, "-m", "mindformers_codellama.cli.main"]
MODEL = "codellama_tiny"  # random weights: it never ends an answer by itself
SECONDS = 60


class Terminal:
    """A program on a pseudo-terminal."""

    def __init__(self, *words):
        self.pid, self.end = pty.fork()
        if not self.pid:
            os.environ.update(CODELLAMA_LOG_LEVEL="ERROR", OMP_NUM_THREADS="1", TERM="dumb")
            os.execv(COMMAND[0], [*COMMAND, *words])
        self.text = ""

    def read(self, mark, *, more=0):
        """Wait for `mark` and `more` characters behind it; gives what came up to there."""
        until = time.monotonic() + SECONDS
        while time.monotonic() < until:
            before, found, after = self.text.partition(mark)
            if found and len(after) >= more:
                self.text = after
                return before
            if select.select([self.end], [], [], 0.2)[0]:
                self.text += os.read(self.end, 4096).decode(errors="replace").replace("\r\n", "\n")
        raise AssertionError(f"{mark!r} did not come; instead {self.text!r}")

    def type(self, keys):
        os.write(self.end, keys.encode())

    def exit_code(self):
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def test_a_conversation_with_ctrl_c_reset_and_exit():
    chat = Terminal("chat", MODEL, "--prompt-style", "llama2", "--max-new-tokens", "200", "--no-do-sample")
    chat.read("you> ")
    chat.type("hello\n")
    chat.read("hello\n", more=20)
    chat.type("\x03")
    chat.read("(stopped)\nyou> ")
    chat.type("/reset\n")
    chat.read("forgotten.\nyou> ")
    time.sleep(0.5)  # a person cannot type so fast: readline prints its prompt before it listens
    chat.type("\x03")
    chat.read("/exit or Ctrl-D ends the conversation.\nyou> ")
    chat.type("[INST]\n")
    chat.read("special tag [INST] is not allowed")
    chat.read("you> ")
    chat.type("/exit\n")
    assert chat.exit_code() == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_in_an_answer_ends_predict_with_a_word_and_the_usual_code(number):
    words = [*COMMAND, "predict", MODEL, "x", "--max-new-tokens", "240", "--no-use-past"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"}) as process:
        assert process.stdout.read(8)  # the answer has begun, so a graph has been compiled
        process.send_signal(number)
        _, errors = process.communicate(timeout=SECONDS)
    assert process.returncode == 130
    assert errors.decode().endswith("codellama: stopped.\n")


INTERRUPTED_IMPORT = f"""
import os, signal, sys, threading, time
from mindformers_codellama.cli.main import main

def interrupt():
    while {{module!r}} not in sys.modules:
        time.sleep(0.001)
    os.kill(os.getpid(), signal.SIGINT)

threading.Thread(target=interrupt, daemon=True).start()
sys.exit(main(["predict", {MODEL!r}, "x"]))
"""


@pytest.mark.parametrize("module", ["mindspore._c_expression", "mindspore.nn", "mindspore.dataset"])
def test_ctrl_c_while_mindspore_is_imported_is_no_crash(module):
    done = subprocess.run([sys.executable, "-c", INTERRUPTED_IMPORT.format(module=module)], capture_output=True, text=True, timeout=SECONDS)
    assert (done.returncode, done.stderr) == (130, "codellama: stopped.\n")
