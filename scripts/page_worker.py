"""Executes the Python blocks of one page in one namespace: a JSON line in for each, a JSON line out. See site_check.py."""

import json
import os
import sys
import traceback


def main() -> None:
    # What the blocks print goes to the file that they are told; the answers go out on the real stdout.
    answers = os.fdopen(os.dup(1), "w")
    namespace = {"__name__": "__main__"}
    for request in sys.stdin:
        block = json.loads(request)
        log = os.open(block["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for stream in (1, 2):
            os.dup2(log, stream)
        os.close(log)
        code = 0
        try:
            # Lines are those of the page, so that a traceback shows them.
            exec(compile("\n" * (block["line"] - 1) + block["text"], block["page"], "exec"), namespace)
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        except BaseException:  # noqa: BLE001: a block may raise anything
            traceback.print_exc()
            code = 1
        sys.stdout.flush()
        sys.stderr.flush()
        print(json.dumps(code), file=answers, flush=True)


main()
