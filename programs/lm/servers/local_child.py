"""The child process that runs llama.cpp's server; it lives exactly as long as its standard input stays open.

Started by `local`, which writes one JSON line (model, key, context) and reads one JSON line back.
"""

import json
import os
import sys


def main() -> None:
    """Serve until the parent closes the pipe, which the system does for it when it is killed."""
    order = json.loads(sys.stdin.readline())
    # The runtime writes its log to stdout and stderr; the answer to the parent goes where it cannot.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    try:
        import xllamacpp

        params = xllamacpp.CommonParams()
        params.model.path = order["model"]
        params.hostnames = ["127.0.0.1"]
        params.port = 0
        params.api_keys = [order["key"]]
        params.n_ctx = order["context"]
        params.n_parallel = order["parallel"]
        # Prompts of one run begin alike: what a slot has read once it does not read again.
        params.cache_prompt = True
        params.n_cache_reuse = 64
        params.ui = False
        params.endpoint_slots = False
        params.offline = True
        params.verbosity = 0
        server = xllamacpp.Server(params)
        found = {"address": server.listening_address}
    except Exception as error:  # noqa: BLE001 - whatever it is, the parent must hear of it
        found = {"error": f"{type(error).__name__}: {error}"}
    answers.write(json.dumps(found) + "\n")
    answers.flush()
    while sys.stdin.read(65536):
        continue
    # The runtime's own shutdown waits for answers that nobody wants any more.
    os._exit(0)


if __name__ == "__main__":
    main()
