#!/usr/bin/env python3
"""Serves a model, sends it the pass-key prompt over REST and shows the answer as it comes.

Needs nothing but the standard library. Called by scripts/demo.sh.
"""

import argparse
import http.client
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

READY_SECONDS = 120
ANSWER_SECONDS = 900
EXPECTED = "The pass key is 28884."
BAR_WIDTH = 32


def announcement_prompt():
    """The prompt of the Qwen2.5-1M announcement: a key before 800 repeats of a filler."""
    script = pathlib.Path(__file__).with_name("pass_key_prompt.py")
    return subprocess.run([sys.executable, script], check=True, capture_output=True,
                          text=True).stdout


def start_server(args, log_path):
    """Starts `longhaul serve`; returns the process once it says that it is ready."""
    command = [args.program, "serve", args.model, "--host", "127.0.0.1", "--port", str(args.port),
               "--grpc-port", str(args.grpc_port), "--device", "cpu"]
    log = open(log_path, "w", encoding="utf-8")
    # A session of its own: Ctrl-C here is handled here, and --keep leaves it running.
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True,
                              start_new_session=True)
    signal.signal(signal.SIGALRM, lambda *_: server.kill())
    signal.alarm(READY_SECONDS)
    line = server.stdout.readline()
    signal.alarm(0)
    if not line.startswith("ready "):
        server.wait()
        tail = "".join(pathlib.Path(log_path).read_text(encoding="utf-8").splitlines(True)[-8:])
        sys.exit(f"{tail}demo: the server did not get ready; whole log in {log_path}")
    ready = dict(word.split("=", 1) for word in line.split()[1:])
    return server, ready


def show_progress(progress, on_terminal):
    """One line that is written over on a terminal; otherwise a line for each event."""
    total, done = progress["prompt_tokens"], progress["processed_tokens"]
    filled = BAR_WIDTH * done // total
    eta = progress.get("eta_seconds")
    line = (f"prefill [{'#' * filled}{'.' * (BAR_WIDTH - filled)}] "
            f"{done:,}/{total:,} tokens" + (f", {eta:.0f} s left" if eta is not None else ""))
    print(f"\r{line:<79}" if on_terminal else line, end="" if on_terminal else "\n", flush=True)


def ask(address, model, prompt):
    """Streams one chat completion. Returns text, usage, seconds to first token, total seconds."""
    host, port = address.rsplit(":", 1)
    connection = http.client.HTTPConnection(host, int(port), timeout=ANSWER_SECONDS)
    body = {"model": model, "messages": [{"role": "user", "content": prompt}], "stream": True,
            "stream_options": {"include_usage": True, "include_progress": True}}
    begin = time.monotonic()
    connection.request("POST", "/v1/chat/completions", json.dumps(body),
                       {"Content-Type": "application/json"})
    response = connection.getresponse()
    if response.status != 200:
        sys.exit(f"demo: HTTP {response.status}: {response.read().decode()}")
    on_terminal = sys.stdout.isatty()
    text, usage, first = "", None, None
    for raw in response:
        line = raw.decode().strip()
        if not line.startswith("data: ") or line == "data: [DONE]":
            continue
        event = json.loads(line[len("data: "):])
        if "error" in event:
            sys.exit(f"demo: {event['error']['message']}")
        if "progress" in event:
            show_progress(event["progress"], on_terminal)
        for choice in event.get("choices", []):
            piece = choice["delta"].get("content")
            if piece:
                first = first or time.monotonic()
                text += piece
        usage = event.get("usage") or usage
    if on_terminal:
        print()
    connection.close()
    if first is None or usage is None:
        sys.exit("demo: the stream ended without an answer")
    return text, usage, first - begin, time.monotonic() - begin


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--program", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--grpc-port", type=int, default=9000)
    parser.add_argument("--keep", action="store_true")
    args = parser.parse_args()

    log_path = os.path.join(os.path.dirname(args.program), "..", "demo.log")
    log_path = os.path.normpath(log_path)
    server, ready = start_server(args, log_path)
    rest = ready["rest"].removeprefix("http://").removesuffix("/v1")
    try:
        text, usage, first, total = ask(rest, ready["model"], announcement_prompt())
    except BaseException:
        server.terminate()
        server.wait()
        raise
    prompt, completion = usage["prompt_tokens"], usage["completion_tokens"]
    print(f"prompt: {prompt:,} tokens")
    print(f"time to first token: {first:.1f} s ({prompt / first:,.0f} tokens/s)")
    if completion > 1:
        print(f"decoding: {(completion - 1) / (total - first):.1f} tokens/s")
    if args.keep:
        print(f"""
The server goes on (pid {server.pid}, log {log_path}). Try:
  curl http://{rest}/v1/models
  curl http://{rest}/v1/chat/completions -H 'Content-Type: application/json' \\
    -d '{{"model": "{ready["model"]}", "messages": [{{"role": "user", "content": "The grass is green."}}], "max_tokens": 32}}'
  curl http://{rest}/metrics
Stop it with: kill {server.pid}
""")
    else:
        server.terminate()
        server.wait(timeout=60)
    print(f"answer: {text.strip()}")
    if text.strip() != EXPECTED:
        sys.exit(f"demo: expected \"{EXPECTED}\"")


if __name__ == "__main__":
    main()
