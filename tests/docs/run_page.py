"""Runs the steps of one page, given as JSON on standard input: one namespace, one directory, one event loop.

A step may await at its top level, as in ``python -m asyncio``; then it runs on a loop that all such steps share.
One that does not is run outside of it, so that it may start a loop of its own.
After each step a line with ``MARK`` is printed.
"""

from __future__ import annotations

import ast
import asyncio
import gc
import inspect
import json
import subprocess
import sys
import types

MARK = "\x1e"


def main() -> int:
    steps = json.load(sys.stdin)
    sys.path[0] = ""  # as for a reader at a prompt: the page's own files can be imported
    page = types.ModuleType("__main__")
    # Classes that a page makes look for their module by its name.
    sys.modules["__main__"] = page
    with asyncio.Runner() as runner:
        for step in steps:
            if step["language"] == "sh":
                code = subprocess.run(["sh", "-e", "-c", step["text"]], check=False).returncode
                if code:
                    print(f"{step['where']}: exit code {code}", file=sys.stderr)
                    return 1
            else:
                run(step, page, runner)
            print(MARK, flush=True)
        # What a page leaves open complains now, on standard error.
        page.__dict__.clear()
        gc.collect()
    return 0


def run(step: dict[str, str], page: types.ModuleType, runner: asyncio.Runner) -> None:
    # Empty lines before it, so that a traceback shows the line of the page.
    source = "\n" * (int(step["line"]) - 1) + step["text"]
    code = compile(source, step["page"], "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    call = types.FunctionType(code, page.__dict__)
    if code.co_flags & inspect.CO_COROUTINE:
        runner.run(call())
    else:
        call()
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
