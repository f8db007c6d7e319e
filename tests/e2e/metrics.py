"""Values of the programs' metrics, and waiting for one."""

import pathlib
import time

import httpx

WAIT_SECONDS = 15


def value(url, name, **labels):
    """The sample `name` with exactly `labels` at `url`; 0 if there is none."""
    wanted = ",".join(f'{key}="{labels[key]}"' for key in sorted(labels))
    wanted = f"{name}{{{wanted}}}" if wanted else name
    for line in httpx.get(url, timeout=10).raise_for_status().text.splitlines():
        sample, _, number = line.rpartition(" ")
        if sample == wanted:
            return float(number)
    return 0.0


def wait_for(condition, seconds=WAIT_SECONDS):
    """Whether `condition()` came true in time."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


class WorkerMetrics:
    """The metrics of the leader with the process id `pid`."""

    def __init__(self, pid):
        self.url = next(url for url in _http_servers(pid) if _is_leader(url))

    def __call__(self, name, **labels):
        return value(self.url, "longhaul_worker_" + name, **labels)

    def load(self):
        return [self(name) for name in ("running_requests", "waiting_requests", "kv_blocks_used")]

    def is_idle(self):
        return not any(self.load())


class CancelWatch:
    """Sees whether one request, begun after this, is cancelled in mid-prefill everywhere."""

    def __init__(self, cluster, worker):
        self._router_url = cluster.base + "/metrics"
        self._worker = worker
        self._before = self._counts()
        self._tokens_before = worker("prefill_tokens_total")

    def _counts(self):
        return (self._worker("requests_finished_total", reason="cancelled"),
                value(self._router_url, "longhaul_router_requests_total", outcome="cancelled"))

    def prefill_has_begun(self):
        return self._worker("prefill_tokens_total") > self._tokens_before

    def check(self, prompt_tokens):
        expected = tuple(count + 1 for count in self._before)
        assert wait_for(lambda: self._counts() == expected and self._worker.is_idle()), (
            self._before, self._counts(), self._worker.load())
        assert value(self._router_url, "longhaul_router_live_requests") == 0
        assert 0 < self._worker("prefill_tokens_total") - self._tokens_before < prompt_tokens


def _http_servers(pid):
    """Addresses of TCP on loopback that the process listens on."""
    sockets = set()
    for entry in pathlib.Path(f"/proc/{pid}/fd").iterdir():
        target = str(entry.readlink())
        if target.startswith("socket:["):
            sockets.add(target[len("socket:["):-1])
    listening = "0A"
    for line in pathlib.Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[3] == listening and fields[9] in sockets:
            yield f"http://127.0.0.1:{int(fields[1].split(':')[1], 16)}/metrics"


def _is_leader(url):
    try:
        return "longhaul_worker_group_ready" in httpx.get(url, timeout=5).text
    except httpx.HTTPError:
        return False  # a port that speaks something else
