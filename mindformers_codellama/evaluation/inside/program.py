"""The process of a sample's code: takes calls on standard input, answers on standard output, prints nowhere.

Everything here is at the mercy of the code it runs. That is no matter: whatever is written to the answers, the checker reads data.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from confine import confine, private_pipe  # type: ignore[import-not-found]  # noqa: E402
from frames import pack, receive, send, unpack  # type: ignore[import-not-found]  # noqa: E402

sys.path.pop(0)


def main() -> None:
    """Load the program, then answer calls until there are no more."""
    confine(json.loads(sys.argv[1]))
    calls, answers = private_pipe(0, "rb"), private_pipe(1, "wb")
    job = receive(calls)
    if job is None:
        return
    private_pipe(2, "wb")
    scope: dict[str, object] = {"__name__": "program"}
    try:
        exec(compile(job["source"], "program.py", "exec"), scope)  # noqa: S102 - this is what the sandbox is for
        function = scope[job["entry_point"]]
        assert callable(function)
    except BaseException as error:  # SystemExit too
        send(answers, {"raised": told(error)})
        return
    send(answers, {"loaded": True})
    while (call := receive(calls)) is not None:
        try:
            arguments, named = unpack(call["arguments"]), unpack(call["named"])
            value = pack(function(*arguments, **named))
            answer = {"value": value, "arguments": pack(arguments)}
        except BaseException as error:
            answer = {"raised": told(error)}
        send(answers, answer)


def told(error: BaseException) -> list[str]:
    """Kind and text of an exception; a text that cannot be made is empty."""
    try:
        return [type(error).__name__, str(error)[:300]]
    except BaseException:
        return [type(error).__name__, ""]


if __name__ == "__main__":
    main()
