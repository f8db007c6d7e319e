"""`longhaul generate`: one prompt, and files of requests that survive any end of their run."""

import fcntl
import json
import os
import pathlib
import signal
import subprocess
import time

import pytest

import pass_key
from conftest import COLD, PROGRAMS, SOURCE

KEY = "48213"
MODEL = SOURCE / "models" / "demo"
RUN_SECONDS = 120


def command(*arguments, model=MODEL):
    return [str(part) for part in (PROGRAMS / "longhaul", "generate", model, *COLD, *arguments)]


@pytest.fixture(autouse=True)
def temporary_files(tmp_path_factory, monkeypatch):
    """A place of its own for sockets, to see what is left there."""
    folder = tmp_path_factory.mktemp("t")
    monkeypatch.setenv("TMPDIR", str(folder))
    return folder


def generate(*arguments, model=MODEL, stdin=b""):
    return subprocess.run(command(*arguments, model=model), input=stdin, capture_output=True,
                          timeout=RUN_SECONDS)


def chat(custom_id, text, **fields):
    return {"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions",
            "body": {"messages": [{"role": "user", "content": text}], "temperature": 0, **fields}}


def write_lines(path, lines):
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n"
                            for line in lines))
    return path


def read_results(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def batch(tmp_path, *flags, **kwargs):
    return generate("--input-file", tmp_path / "in.jsonl", "--output-file", tmp_path / "out.jsonl",
                    *flags, **kwargs)


def start_batch(tmp_path, *flags):
    return subprocess.Popen(
        command("--input-file", tmp_path / "in.jsonl", "--output-file", tmp_path / "out.jsonl",
                *flags), stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def wait_until(condition, seconds=60):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return
        time.sleep(0.02)
    raise AssertionError("not within %s s" % seconds)


def processes_below(pid):
    """{pid: command line} of a process' descendants."""
    below, frontier = {}, [pid]
    while frontier:
        parent = frontier.pop()
        for children in pathlib.Path(f"/proc/{parent}/task").glob("*/children"):
            for child in children.read_text().split():
                line = pathlib.Path(f"/proc/{child}/cmdline").read_bytes().replace(b"\0", b" ")
                below[int(child)] = line.decode()
                frontier.append(int(child))
    return below


def is_gone(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def line_count(path):
    return path.read_bytes().count(b"\n") if path.exists() else 0


def test_prompt_file_gives_the_text_and_nothing_else(tmp_path, temporary_files):
    prompt = tmp_path / "prompt.txt"
    prompt.write_text(pass_key.announcement(KEY, 60, 0.5).text)
    result = generate("--prompt-file", prompt)
    assert (result.returncode, result.stdout.decode()) == (0, f"The pass key is {KEY}.")
    summary = result.stderr.decode()
    assert "prompt tokens" in summary and "tokens/s" in summary and "(stop)" in summary
    assert " W " not in summary and " I " not in summary, summary  # the programs' logs
    assert not list(temporary_files.iterdir())


def test_raw_prompt_from_standard_input_with_a_stop_text():
    text = pass_key.announcement(KEY, 20, 0.5).text
    template = f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"
    result = generate("--prompt-file", "-", "--raw", "--stop", " key is", "--max-tokens", 20,
                      "--temperature", 0, "--seed", 1, stdin=template.encode())
    assert result.returncode == 0, result.stderr
    assert result.stdout.decode() == "The pass"


@pytest.mark.parametrize("content, words", [
    (b"", "empty"),
    (b"abc\xff", "0xff at offset 3"),
    (b"x" * 5_000_000 + b"\xe4\xb8", "0xe4 at offset 5000000"),
    (b"\xed\xa0\x80", "offset 0"),  # a surrogate
])
def test_prompts_that_are_no_text_are_named(tmp_path, content, words):
    prompt = tmp_path / "prompt.txt"
    prompt.write_bytes(content)
    result = generate("--prompt-file", prompt)
    assert (result.returncode, result.stdout) == (2, b"")
    assert words in result.stderr.decode()
    assert str(prompt) in result.stderr.decode()


@pytest.mark.parametrize("arguments, words", [
    ([], "--prompt-file"),
    (["--prompt-file", "a", "--input-file", "b"], "either"),
    (["--input-file", "b"], "--output-file"),
    (["--prompt-file", "/nothing/here"], "/nothing/here"),
    (["--prompt-file", "-", "--raw", "--system", "s"], "--system"),
    (["--prompt-file", "-", "--max-tokens", "many"], "max-tokens"),
    (["--prompt-file", "-", "--temperature", "nan"], "--temperature: is nan"),
    (["--prompt-file", "-", "--top-p", "inf"], "--top-p: is inf"),
    (["--prompt-file", "-", "--device", "tpu"], "tpu"),
    (["--prompt-file", "-", "--no-such-flag"], "--no-such-flag"),
    (["--prompt-file", "-", "--served-model-name", "a\nb"], "a\\nb"),
])
def test_usage_errors_exit_with_2(arguments, words):
    result = generate(*arguments, stdin=b"text")
    assert result.returncode == 2, result.stderr
    assert words in result.stderr.decode()


def test_serve_says_what_is_wrong_with_its_model_and_flags():
    for arguments, words in [([""], "MODEL is empty"), ([MODEL, "--nope"], "--nope"),
                             ([], "MODEL"), ([MODEL, "--served-model-name", "x\x1b"], "\\x1b")]:
        result = subprocess.run([PROGRAMS / "longhaul", "serve", *arguments], capture_output=True,
                                text=True, timeout=RUN_SECONDS)
        assert result.returncode == 2, result.stderr
        assert words in result.stderr


def test_the_servers_refusal_of_a_5_mb_prompt_is_told(tmp_path):
    prompt = tmp_path / "prompt.txt"
    prompt.write_text((pass_key.FILLER * 60_000)[:5_000_000])
    result = generate("--prompt-file", prompt, "--max-model-len", 4096)
    assert (result.returncode, result.stdout) == (1, b"")
    message = result.stderr.decode().splitlines()[-1]
    assert "4096" in message and "tokens" in message


def test_good_and_bad_lines_each_get_their_result(tmp_path):
    write_lines(tmp_path / "in.jsonl", [
        chat("key", pass_key.announcement(KEY, 20, 0.5).text),
        {"custom_id": "text", "method": "POST", "url": "/v1/completions",
         "body": {"model": "demo", "prompt": "The grass is", "max_tokens": 2, "temperature": 0}},
        "",
        chat("no such model", "hi", model="other"),
        chat("range", "hi", temperature=9),
        "not JSON",
        '["not an object"]',
        {"method": "POST", "url": "/v1/completions", "body": {"prompt": "no id"}},
        {"custom_id": 5, "url": "/v1/completions", "body": {}},
        {"custom_id": "url", "method": "POST", "url": "/v1/embeddings", "body": {"input": "x"}},
        {"custom_id": "method", "method": "GET", "url": "/v1/completions", "body": {}},
        chat("stream", "hi", stream=True),
        {"custom_id": "no body", "method": "POST", "url": "/v1/completions"},
        {"custom_id": "empty body", "method": "POST", "url": "/v1/completions", "body": {}},
        '{"custom_id":"two values","url":"/v1/completions","body":{}} {}',
        '{"custom_id":"bad inside","url":"/v1/completions","body":{"prompt": [1 2]}}',
        '{"custom_id":"big","url":"/v1/completions","body":{"prompt":"' + "x" * (64 << 20) + '"}}',
    ])
    result = batch(tmp_path)
    assert result.returncode == 1, result.stderr
    assert "2 of 16 requests answered, 14 refused" in result.stderr.decode()
    results = read_results(tmp_path / "out.jsonl")
    assert len(results) == 16
    for entry in results:  # as OpenAI writes them
        assert set(entry) == {"id", "custom_id", "response", "error"}
        assert set(entry["response"]) == {"status_code", "request_id", "body"}
        assert entry["error"] is None
    by_id = {entry["custom_id"]: entry["response"] for entry in results if entry["custom_id"]}
    assert by_id["key"]["body"]["choices"][0]["message"]["content"] == f"The pass key is {KEY}."
    assert by_id["key"]["body"]["id"].endswith(by_id["key"]["request_id"])
    assert by_id["text"]["body"]["usage"]["completion_tokens"] == 2
    assert {name: by_id[name]["status_code"] for name in by_id} == {
        "key": 200, "text": 200, "no such model": 404, "range": 400, "url": 400, "method": 400,
        "stream": 400, "no body": 400, "empty body": 400, "two values": 400, "bad inside": 400}
    assert "/v1/embeddings" in by_id["url"]["body"]["error"]["message"]
    nameless = [entry["response"]["body"]["error"]["message"] for entry in results
                if entry["custom_id"] is None]
    assert [message.split(":")[0] for message in nameless] == [
        "line 6", "line 7", "line 8", "line 9", "line 17"]
    # Again: nothing is asked anew, and nothing is there twice.
    assert batch(tmp_path).returncode == 1
    again = read_results(tmp_path / "out.jsonl")
    assert len(again) == 16
    assert [entry for entry in again if entry["custom_id"]] == [
        entry for entry in results if entry["custom_id"]]


def test_a_killed_run_goes_on_where_it_was(tmp_path, temporary_files):
    keys = [f"{10000 + 37 * i}" for i in range(40)]
    write_lines(tmp_path / "in.jsonl",
                [chat(key, pass_key.announcement(key, 12, 0.3).text) for key in keys])
    output = tmp_path / "out.jsonl"
    process = start_batch(tmp_path, "--concurrency", 2)
    try:
        wait_until(lambda: line_count(output) >= 5)
        children = processes_below(process.pid)
    finally:
        process.kill()
        process.communicate()
    wait_until(lambda: all(is_gone(pid) for pid in children), 10)
    assert len(children) == 3
    before = output.read_text()
    assert 5 <= before.count("\n") < len(keys)
    assert len(list(temporary_files.iterdir())) == 1  # its sockets
    with output.open("a") as file:  # killed in the middle of a write
        file.write('{"id":"batch_req_0123","custom_id":"10000","respo')

    result = batch(tmp_path)
    assert result.returncode == 0, result.stderr
    assert f"({before.count(chr(10))} by earlier runs)" in result.stderr.decode()
    assert output.read_text().startswith(before)
    answers = {entry["custom_id"]: entry["response"]["body"]["choices"][0]["message"]["content"]
               for entry in read_results(output)}
    assert answers == {key: f"The pass key is {key}." for key in keys}
    assert line_count(output) == len(keys)
    assert not list(temporary_files.iterdir())  # the killed run's sockets, too
    assert not list(tmp_path.glob(".*"))

    begin = time.monotonic()
    assert batch(tmp_path).returncode == 0  # no cluster is started for nothing
    assert time.monotonic() - begin < 2


def test_failures_are_tried_again_and_refusals_stand(tmp_path):
    def result(custom_id, status, body):
        response = {"status_code": status, "request_id": "r", "body": body} if status else None
        return {"id": "batch_req_x", "custom_id": custom_id, "response": response,
                "error": None if status else {"code": "no_answer", "message": "gone"}}
    write_lines(tmp_path / "in.jsonl",
                [chat(name, "The grass is", max_tokens=1) for name in ("a", "b", "c", "d", "e")])
    kept = [result("a", 200, {"mine": 1}), result("c", 400, {"error": {"message": "m"}})]
    write_lines(tmp_path / "out.jsonl", [
        kept[0], result("b", 503, {}), kept[1], result("d", 0, None), result("a", 200, {"mine": 2})])
    os.chmod(tmp_path / "out.jsonl", 0o640)
    (tmp_path / "real").mkdir()
    (tmp_path / "out.jsonl").rename(tmp_path / "real" / "out.jsonl")
    (tmp_path / "out.jsonl").symlink_to(tmp_path / "real" / "out.jsonl")
    assert batch(tmp_path).returncode == 1
    results = read_results(tmp_path / "out.jsonl")
    assert results[:2] == kept
    assert sorted(entry["custom_id"] for entry in results) == ["a", "b", "c", "d", "e"]
    assert [entry["response"]["status_code"] for entry in results[2:]] == [200] * 3
    assert (tmp_path / "out.jsonl").is_symlink()
    assert (tmp_path / "real" / "out.jsonl").stat().st_mode & 0o777 == 0o640


def test_concurrency_does_not_change_the_answers(tmp_path):
    lines = [chat(f"{i}", text, max_tokens=12) for i, text in enumerate(
        ["The grass is", "What is the pass key?", "The sun", "Here we go.", "The sky is blue. " * 40,
         pass_key.announcement(KEY, 30, 0.1).text])]
    answers = []
    for concurrency in (1, 4):
        folder = tmp_path / str(concurrency)
        folder.mkdir()
        write_lines(folder / "in.jsonl", lines)
        assert batch(folder, "--concurrency", concurrency).returncode == 0
        answers.append({entry["custom_id"]: entry["response"]["body"]["choices"]
                        for entry in read_results(folder / "out.jsonl")})
    assert len(answers[0]) == len(lines)
    assert answers[0] == answers[1]


@pytest.fixture
def long_batch(tmp_path):
    """A run in the middle of a long prefill, with one request done."""
    long_prompt = pass_key.announcement(KEY, 4000, 0.5).text  # about 100,000 tokens
    write_lines(tmp_path / "in.jsonl", [chat("short", "hi", max_tokens=1),
                                        *(chat(f"long {i}", long_prompt) for i in range(3))])
    process = start_batch(tmp_path, "--concurrency", 1)
    try:
        wait_until(lambda: line_count(tmp_path / "out.jsonl") == 1)
        time.sleep(0.5)
        yield process
    finally:
        process.kill()
        process.communicate()


def test_a_signal_stops_a_run_that_can_be_resumed(tmp_path, long_batch, temporary_files):
    children = processes_below(long_batch.pid)
    assert len(children) == 3
    long_batch.send_signal(signal.SIGINT)
    _, log = long_batch.communicate(timeout=30)
    assert long_batch.returncode == 128 + signal.SIGINT
    assert b"1 of 4 requests answered; the same command goes on from here" in log
    assert [entry["custom_id"] for entry in read_results(tmp_path / "out.jsonl")] == ["short"]
    assert all(is_gone(pid) for pid in children)
    assert not list(temporary_files.iterdir())


def test_a_dead_leader_is_an_error_and_not_a_wait(tmp_path, long_batch):
    children = processes_below(long_batch.pid)
    leader, = (pid for pid, line in children.items() if "longhaul-worker leader" in line)
    os.kill(leader, signal.SIGKILL)
    _, log = long_batch.communicate(timeout=30)
    assert long_batch.returncode == 1
    assert b"longhaul-worker leader ended with signal 9" in log
    assert b"the same command goes on from here" in log
    results = {entry["custom_id"]: entry for entry in read_results(tmp_path / "out.jsonl")}
    assert set(results) == {"short", "long 0"}  # what was in flight
    assert results["long 0"]["response"] is None
    assert "signal 9" in results["long 0"]["error"]["message"]
    assert all(is_gone(pid) for pid in children)


def test_files_that_are_not_what_they_should_be_are_left_alone(tmp_path):
    def refused(words):
        before = (tmp_path / "out.jsonl").read_bytes()
        result = batch(tmp_path)
        assert result.returncode == 2, result.stderr
        assert words in result.stderr.decode()
        assert (tmp_path / "out.jsonl").read_bytes() == before
    (tmp_path / "out.jsonl").write_text("")
    write_lines(tmp_path / "in.jsonl", [chat("a", "hi"), chat("b", "hi"), chat("a", "ho")])
    refused('lines 1 and 3 have the same custom_id "a"')
    write_lines(tmp_path / "in.jsonl", [])
    refused("no request")
    write_lines(tmp_path / "in.jsonl", [chat("a", "hi")])
    write_lines(tmp_path / "out.jsonl", [chat("a", "hi")])  # a file of requests
    refused("line 1 is no result")
    (tmp_path / "out.jsonl").write_text("a note without an end")
    refused("line 1 is no result")
    (tmp_path / "out.jsonl").write_text("")
    with (tmp_path / "out.jsonl").open() as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        refused("another process")
    result = generate("--input-file", tmp_path / "in.jsonl", "--output-file", "/dev/null")
    assert result.returncode == 2 and b"regular file" in result.stderr
    result = generate("--input-file", tmp_path, "--output-file", tmp_path / "out.jsonl")
    assert result.returncode == 2 and b"regular file" in result.stderr
