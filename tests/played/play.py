"""Plays what the conformance suite asks of workloads and of the scheduler: each name in a namespace of its own.

Usage: play.py KUBECONFIG [PART OF A NAME]. Prints a line for each name; fails if one of them does.
"""
import concurrent.futures
import sys
import threading
import traceback

import budgets, daemons, deployments, jobs, more, scheduling, sets  # noqa: E401,F401 their functions are in the list
from steps import PLAYED, Server, Space

AT_ONCE = 8
server = Server(sys.argv[1])
chosen = [play for play in PLAYED if len(sys.argv) < 3 or sys.argv[2] in play[0]]
lock = threading.Lock()


def run(number):
    name, function, _ = chosen[number]
    try:
        space = Space(server, f"played-{number}")
        function(space)
        space.server.call("DELETE", f"/api/v1/namespaces/{space.name}")
        outcome, why = "ok", ""
    except Exception:
        outcome, why = "FAILED", "\n" + traceback.format_exc()
    with lock:
        print(outcome, name + why, flush=True)
    return outcome == "ok"


together = [number for number, play in enumerate(chosen) if not play[2]]
with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
    outcomes = list(pool.map(run, together))
outcomes += [run(number) for number, play in enumerate(chosen) if play[2]]
print(sum(outcomes), "of", len(outcomes))
sys.exit(0 if all(outcomes) else 1)
