"""Several groups of several ranks behind one router."""

import concurrent.futures
import os
import pathlib
import signal
import time

import httpx
import pytest

import pass_key
from conftest import Cluster

GROUPS, RANKS = 2, 2
REPAIR_SECONDS = 30


@pytest.fixture(scope="module")
def groups():
    running = Cluster("--groups", str(GROUPS), "--tensor-parallel-size", str(RANKS))
    yield running
    children = running.children()
    assert running.stop() == 0, "".join(running.log[-20:])
    assert not [pid for pid in children if pathlib.Path(f"/proc/{pid}").exists()]


def ask(cluster, key):
    reply = httpx.post(cluster.rest + "/chat/completions", timeout=120, json={
        "model": cluster.model,
        "messages": [{"role": "user", "content": pass_key.announcement(key, 20, 0.5).text}]})
    assert reply.status_code == 200, reply.text
    return reply.json()["choices"][0]["message"]["content"]


def ranks(cluster):
    return {pid for pid, command in cluster.children().items() if "longhaul-worker rank" in command}


def test_groups_share_the_work(groups):
    assert len(ranks(groups)) == GROUPS * RANKS
    assert len(groups.children()) == GROUPS * (1 + RANKS) + 1
    keys = [str(12345 + 1111 * n) for n in range(8)]
    with concurrent.futures.ThreadPoolExecutor(len(keys)) as pool:
        for key, answer in zip(keys, pool.map(lambda key: ask(groups, key), keys)):
            assert answer == f"The pass key is {key}."


def test_the_other_group_answers_while_one_is_repaired(groups):
    before = ranks(groups)
    os.kill(min(before), signal.SIGKILL)
    for n in range(4):
        key = str(54321 + n)
        assert ask(groups, key) == f"The pass key is {key}."
    end = time.monotonic() + REPAIR_SECONDS
    while len(ranks(groups)) < GROUPS * RANKS or min(before) in ranks(groups):
        assert time.monotonic() < end, "".join(groups.log[-20:])
        time.sleep(0.1)
    assert len(ranks(groups) - before) == RANKS  # the other group's live on
    assert any("signal 9" in line for line in groups.log)


def test_what_does_not_divide_is_named():
    with pytest.raises(RuntimeError, match="--tensor-parallel-size is 3, must divide"):
        Cluster("--tensor-parallel-size", "3")
