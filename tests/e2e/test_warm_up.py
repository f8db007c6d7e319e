"""A cluster as it starts by default: the ranks are warmed up, and what they cost is kept."""

import json

import httpx

import metrics
from conftest import Cluster


def start(folder, seconds=None):
    more = () if seconds is None else ("--warm-up-seconds", str(seconds))
    return Cluster(warm_up=("--cost-model-dir", str(folder), *more))


def finish(cluster):
    worker = metrics.WorkerMetrics(cluster.pid_of("longhaul-worker leader"))
    answer = httpx.post(cluster.rest + "/completions", timeout=60,
                        json={"model": cluster.model, "prompt": "one two", "max_tokens": 1})
    values = {name: worker(name) for name in ("warm_up_seconds", "cost_fit_ok", "running_requests",
                                              "requests_finished_total")}
    assert answer.status_code == 200, answer.text
    assert cluster.stop() == 0, "".join(cluster.log[-20:])
    return values


def test_ranks_are_warmed_up_before_the_first_request(tmp_path):
    values = finish(start(tmp_path / "costs"))
    # One block is run whatever it takes; a machine with nothing else to do ends within 2 s.
    assert 0 < values["warm_up_seconds"] < 30
    assert values["running_requests"] == 0


def test_costs_are_kept_for_the_next_start(tmp_path):
    # Time enough for a busy machine to come to the end of it.
    first = start(tmp_path / "costs", 60)
    assert finish(first)["warm_up_seconds"] > 0
    saved = list((tmp_path / "costs").iterdir())
    if not saved:
        assert any("event=cost_fit_failed" in line for line in first.log), "".join(first.log[-30:])
        return
    cost = json.loads(saved[0].read_text())
    assert len(saved) == 1 and cost["reach_tokens"] > 8000 and cost["hardware"]
    second = start(tmp_path / "costs", 60)
    values = finish(second)
    assert values["warm_up_seconds"] == 0 and values["cost_fit_ok"] == 1
    assert any("event=cost_restored" in line for line in second.log)
