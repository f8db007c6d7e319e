"""The life of the processes: start, idleness, death of a rank, orderly and disorderly ends."""

import json
import os
import pathlib
import signal
import subprocess
import time

import httpx
import pytest

import pass_key
from conftest import PROGRAMS, SOURCE, Cluster

IDLE_SECONDS = 10
REPAIR_SECONDS = 30


def ask(cluster, content="The pass key is 12345. What is the pass key?", **fields):
    return httpx.post(cluster.rest + "/chat/completions", timeout=120, json={
        "model": cluster.model, "messages": [{"role": "user", "content": content}], **fields})


def cpu_seconds(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def wait_until(condition, seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.1)
    return False


def is_ready(cluster):
    return httpx.get(cluster.base + "/ready").status_code == 200


def test_idle_processes_use_under_one_percent_of_a_core(cluster):
    assert ask(cluster, max_tokens=1).status_code == 200
    time.sleep(1)
    pids = [cluster.process.pid, *cluster.children()]
    assert len(pids) == 4  # serve, router, leader, rank
    before = {pid: cpu_seconds(pid) for pid in pids}
    time.sleep(IDLE_SECONDS)
    used = {pid: (cpu_seconds(pid) - before[pid]) / IDLE_SECONDS for pid in pids}
    assert max(used.values()) < 0.01, used


def test_killed_rank_is_explained_and_repaired(cluster):
    rank = cluster.pid_of("longhaul-worker rank")
    os.kill(rank, signal.SIGKILL)
    assert wait_until(lambda: not pathlib.Path(f"/proc/{rank}").exists(), 10)
    assert wait_until(lambda: is_ready(cluster) and cluster.pid_of("longhaul-worker rank") != rank,
                      REPAIR_SECONDS)
    assert ask(cluster, max_tokens=2).status_code == 200
    told = [line for line in cluster.log if "signal 9" in line]
    assert told, "".join(cluster.log[-20:])


def test_request_without_a_token_survives_the_death_of_its_rank(cluster):
    """Killed in mid-prefill, the request is replayed and answered."""
    key = "77123"
    rank = cluster.pid_of("longhaul-worker rank")
    request = {"model": cluster.model, "stream": True, "stream_options": {"include_progress": True},
               "messages": [{"role": "user", "content": pass_key.announcement(key, 300, 0.5).text}]}
    text, killed = "", False
    with httpx.stream("POST", cluster.rest + "/chat/completions", json=request, timeout=120) as reply:
        for line in reply.iter_lines():
            if not line.startswith("data: {"):
                continue
            event = json.loads(line[6:])
            assert "error" not in event, event
            if "progress" in event and not killed and event["progress"]["processed_tokens"] > 0:
                os.kill(rank, signal.SIGKILL)
                killed = True
            for choice in event["choices"]:
                text += choice["delta"].get("content") or ""
    assert killed
    assert text == f"The pass key is {key}."


def test_sigterm_stops_everything():
    running = Cluster()
    children = running.children()
    assert len(children) == 3
    assert running.stop() == 0
    assert not [pid for pid in children if pathlib.Path(f"/proc/{pid}").exists()]


def test_killed_serve_leaves_nothing_behind():
    running = Cluster()
    children = running.children()
    running.process.kill()
    running.process.wait()
    assert wait_until(
        lambda: not [pid for pid in children if pathlib.Path(f"/proc/{pid}").exists()], 10)


@pytest.mark.parametrize("change, expected", [
    (lambda folder: (folder / "model-00002-of-00002.safetensors").unlink(),
     "model-00002-of-00002.safetensors"),
    (lambda folder: (folder / "config.json").write_text('{"model_type": "llama"}'), "llama"),
    (lambda folder: os.truncate(folder / "model-00001-of-00002.safetensors", 1000),
     "model-00001-of-00002.safetensors"),
    (lambda folder: (folder / "tokenizer.json").unlink(), "tokenizer.json"),
])
def test_bad_model_is_one_clear_error(tmp_path, change, expected):
    folder = tmp_path / "model"
    folder.mkdir()
    for file in (SOURCE / "models" / "demo").iterdir():
        if file.suffix in (".json", ".safetensors"):
            (folder / file.name).write_bytes(file.read_bytes())
    change(folder)
    result = subprocess.run(
        [PROGRAMS / "longhaul", "serve", folder, "--port", "0", "--grpc-port", "0"],
        capture_output=True, text=True, timeout=60)
    assert result.returncode == 1
    assert expected in result.stderr
    assert "ready" not in result.stdout


def test_taken_port_is_named(cluster):
    port = cluster.base.rsplit(":", 1)[1]
    result = subprocess.run(
        [PROGRAMS / "longhaul", "serve", SOURCE / "models" / "demo", "--port", port,
         "--grpc-port", "0"], capture_output=True, text=True, timeout=60)
    assert result.returncode == 1
    assert port in result.stderr


def test_an_origin_that_no_browser_sends_is_named():
    result = subprocess.run(
        [PROGRAMS / "longhaul", "serve", SOURCE / "models" / "demo", "--port", "0", "--grpc-port", "0",
         "--allowed-origins", "https://app.example.org", "--allowed-origins", "app.example.org/"],
        capture_output=True, text=True, timeout=60)
    assert result.returncode == 1
    assert '"app.example.org/" is no origin' in result.stderr
