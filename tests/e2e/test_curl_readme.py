"""Every example of README.md against a server, run as printed, prints what README.md says.

An example is a code block with `curl http`, or of Python; the `text` block after it is its output,
in which `...` stands for anything. Only the server's address is another.
"""

import gzip
import json
import re
import shutil
import subprocess
import sys
import time

import httpx
import pytest

import metrics
import pass_key
from conftest import SOURCE

ADDRESS = "http://127.0.0.1:8000"
RUN_SECONDS = 60
LONG_PROMPT_TOKENS = 60_000  # no CPU reads them within the seconds of a test
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def examples():
    """(program, output) of each example."""
    blocks = BLOCK.findall((SOURCE / "README.md").read_text())
    found = []
    for (language, code), (next_language, output) in zip(blocks, [*blocks[1:], ("", "")]):
        if "curl http" in code or "curl -N http" in code or language == "python":
            assert next_language == "text", f"no output is given for:\n{code}"
            found.append(pytest.param(language, code, output, id=f"{len(found)}"))
    return found


@pytest.fixture(autouse=True)
def curl():
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")


def test_readme_has_examples_of_all_kinds():
    programs = [example.values[1] for example in examples()]
    for part in ("/v1/chat/completions", '"stream": true', "/tokenize", "--repeats 57000",
                 "import openai"):
        assert any(part in program for program in programs), part
    assert len(programs) >= 6


@pytest.mark.parametrize("language, program, expected", examples())
def test_example(cluster, language, program, expected):
    assert ADDRESS in program
    program = program.replace(ADDRESS, cluster.base)
    command = [sys.executable, "-c"] if language == "python" else ["bash", "-euo", "pipefail", "-c"]
    result = subprocess.run([*command, program], cwd=SOURCE, capture_output=True, text=True,
                            timeout=RUN_SECONDS)
    assert result.returncode == 0, result.stderr
    pattern = ".*".join(map(re.escape, expected.strip().split("...")))
    assert re.fullmatch(pattern, result.stdout.strip(), re.DOTALL), result.stdout


JSON = ["-H", "Content-Type: application/json"]


def curl_json(*arguments, headers=JSON, data=None):
    """(status, headers, body) of `curl arguments`."""
    result = subprocess.run(
        ["curl", "-sS", "-D", "/dev/stderr", "-w", "\n%{http_code}", *headers, *arguments],
        input=data, capture_output=True, timeout=RUN_SECONDS)
    assert result.returncode == 0, result.stderr
    body, _, status = result.stdout.decode().rpartition("\n")
    return int(status), result.stderr.decode().lower(), body


def test_other_paths(cluster):
    for path, part in [("/health", "ok"), ("/ready", "ready"), ("/version", "version"),
                       ("/v1/models", '"max_model_len":1048576'),
                       ("/v1/models/demo", '"id":"demo"'), ("/metrics", "longhaul_router_")]:
        status, _, body = curl_json(cluster.base + path)
        assert (status, part in body) == (200, True), path
    status, _, body = curl_json(cluster.base + "/detokenize", "-d", '{"tokens": [473, 1254, 291]}')
    assert (status, json.loads(body)) == (200, {"prompt": "The grass is"})


def test_errors_of_http(cluster):
    """What a client gets that gets the protocol or the path wrong."""
    url = cluster.rest + "/completions"
    for arguments, status in [
            ([cluster.base + "/nothing"], 404),
            (["-X", "DELETE", url], 405),
            (["-d", "{", url], 400),
            (["-d", "", url], 400),
            (["-H", "Content-Encoding: br", "-d", "{}", url], 415),
            (["-H", "Content-Encoding: gzip", "-d", "{}", url], 400)]:
        got, _, body = curl_json(*arguments)
        assert got == status, (arguments, body)
        error = json.loads(body)["error"]
        assert error["message"] and error["type"] == "invalid_request_error"
    status, _, body = curl_json("-d", "{}", url, headers=())  # curl's own type is a form's
    assert (status, "application/json" in body) == (415, True)


@pytest.mark.parametrize("arguments", [
    [], ["-H", "Transfer-Encoding: chunked"], ["-H", "Expect: 100-continue"], ["--http1.0"],
    ["-H", "Content-Encoding: gzip"]])
def test_five_megabytes_however_they_come(cluster, arguments):
    text = pass_key.announcement("48213", 57000, 1.0).text
    assert len(text) > 5_000_000
    body = json.dumps({"prompt": text}).encode()
    if "Content-Encoding: gzip" in arguments:
        body = gzip.compress(body, 1)
    status, _, reply = curl_json(*arguments, "--data-binary", "@-", cluster.base + "/tokenize",
                                 data=body)
    assert status == 200
    expected = httpx.post(cluster.base + "/tokenize", json={"prompt": text[-1000:]}).json()
    # Both end alike; the first of the short one may begin inside a word.
    assert json.loads(reply)["tokens"][-200:] == expected["tokens"][-200:]
    assert json.loads(reply)["count"] > 57000 * 24


def test_headers_go_both_ways(cluster):
    status, headers, _ = curl_json(
        "-H", "X-Request-Id: mine-17", "-H", "X-Request-Timeout: 30", cluster.rest + "/completions",
        "-d", '{"model": "demo", "prompt": "a", "max_tokens": 1}')
    assert status == 200
    assert "x-request-id: mine-17\r\n" in headers
    assert "content-type: application/json\r\n" in headers


@pytest.mark.parametrize("stream", [True, False])
def test_killed_curl_cancels_in_mid_prefill(cluster, worker, stream):
    watch = metrics.CancelWatch(cluster, worker)
    body = json.dumps({"model": "demo", "stream": stream, "messages": [
        {"role": "user", "content": pass_key.build(LONG_PROMPT_TOKENS, 0.5).text}]})
    with subprocess.Popen(["curl", "-sN", cluster.rest + "/chat/completions", *JSON, "-d", "@-"],
                          stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as curl:
        curl.stdin.write(body.encode())
        curl.stdin.close()
        assert metrics.wait_for(watch.prefill_has_begun)
        curl.kill()
    watch.check(LONG_PROMPT_TOKENS)


def test_curl_that_gives_up_cancels(cluster, worker):
    watch = metrics.CancelWatch(cluster, worker)
    body = json.dumps({"model": "demo", "prompt": pass_key.build(LONG_PROMPT_TOKENS, 0.5).text})
    begin = time.monotonic()
    result = subprocess.run(["curl", "-sS", "--max-time", "2", cluster.rest + "/completions",
                             *JSON, "-d", "@-"], input=body.encode(), capture_output=True)
    operation_timeout = 28
    assert result.returncode == operation_timeout
    assert time.monotonic() - begin < 5
    watch.check(LONG_PROMPT_TOKENS)
