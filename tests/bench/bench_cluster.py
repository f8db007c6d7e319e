"""`longhaul serve` on free ports, for benchmarks of whole clusters. Needs no packages."""

import collections
import http.client
import json
import os
import pathlib
import random
import re
import socket
import subprocess
import threading
import time

VOCABULARY = 2040  # the demo's ordinary tokens
STOP_SECONDS = 60
LISTENING = "0A"  # in /proc/net/tcp


class Cluster:
    """A running router and its groups. Programs are named by what their command lines hold."""

    PROGRAMS = ("longhaul-router", "longhaul-worker leader", "longhaul-worker rank")

    def __init__(self, folder, model, *flags, environment=None):
        """SystemExit if it does not start; `environment` comes besides what this process has."""
        self._log = collections.deque(maxlen=50)
        self.budgets = {}  # of ranks on GPUs: numbers of event=memory_budget
        command = [str(word) for word in (pathlib.Path(folder) / "longhaul", "serve", model, "--port", "0",
                                          "--grpc-port", "0", "--cost-model-dir", "", *flags)]
        try:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                            env={**os.environ, **(environment or {})})
        except OSError as error:
            raise SystemExit(f"{' '.join(command)}: {error}") from error
        reader = threading.Thread(target=self._read_log, daemon=True)
        reader.start()
        line = self.process.stdout.readline()
        if not line.startswith("ready "):
            reader.join(STOP_SECONDS)
            raise SystemExit(f"not ready: {' '.join(command)}\n" + "".join(self._log))
        words = dict(word.split("=", 1) for word in line.split()[1:])
        self.model, self.address = words["model"], words["rest"].split("//")[1].removesuffix("/v1")
        self.pids = {program: [] for program in self.PROGRAMS}
        below = [self.process.pid]
        while below:
            for children in pathlib.Path(f"/proc/{below.pop()}/task").glob("*/children"):
                for pid in children.read_text().split():
                    below.append(pid)
                    command = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
                    for program in self.PROGRAMS:
                        if program in command:
                            self.pids[program].append(int(pid))

    def _read_log(self):
        for line in self.process.stderr:
            self._log.append(line)
            budget = memory_budget(line)
            if budget:
                self.budgets[budget["rank"]] = budget

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def stop(self):
        """Ends it; SystemExit if a program had failed before."""
        failed = self.process.poll()
        if failed is not None:
            raise SystemExit(f"the server ended with status {failed}:\n" + "".join(self._log))
        self.process.terminate()
        self.process.wait(timeout=STOP_SECONDS)

    def connect(self, seconds=600):
        return http.client.HTTPConnection(self.address, timeout=seconds)

    def health(self):
        connection = self.connect()
        connection.request("GET", "/health")
        status = connection.getresponse().status
        connection.close()
        return status == 200

    def peak_mib(self, program):
        """Of resident memory, of all processes of the program."""
        peaks = [re.search(r"VmHWM:\s*(\d+)", pathlib.Path(f"/proc/{pid}/status").read_text())
                 for pid in self.pids[program]]
        return sum(int(peak[1]) for peak in peaks) / 1024

    def rank_cpu_seconds(self):
        """Processor time that the ranks have used."""
        ticks = 0
        for pid in self.pids["longhaul-worker rank"]:
            fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks / 100

    def leader_metrics(self):
        """Samples of the first leader without `longhaul_worker_`, by name and labels as they are written."""
        if not hasattr(self, "_metrics_port"):
            self._metrics_port = _listening_port(min(self.pids["longhaul-worker leader"]))
        connection = http.client.HTTPConnection("127.0.0.1", self._metrics_port, timeout=30)
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
        connection.close()
        samples = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
        return {name.removeprefix("longhaul_worker_"): float(value) for name, _, value in samples}


class Completion:
    """A streaming completion of token ids, begun at once on a thread of its own."""

    def __init__(self, cluster, prompt, max_tokens=1, progress=False):
        body = {"model": cluster.model, "prompt": prompt, "max_tokens": max_tokens, "ignore_eos": True,
                "stream": True, "timeout": 86400, "stream_options": {"include_usage": True,
                                                                     "include_progress": progress}}
        self.first_token = None  # seconds from the sending
        self.processed = 0       # tokens of the prompt, with `progress`
        self.cached = 0          # of the prompt, from the cache
        self.error = None
        self.begin = time.monotonic()
        self._connection = cluster.connect(3600)
        self._cancelled = False
        self._socket = None
        self._thread = threading.Thread(target=self._run, args=(json.dumps(body),), daemon=True)
        self._thread.start()

    def _run(self, body):
        try:
            self._connection.request("POST", "/v1/completions", body)
            self._socket = self._connection.sock
            reply = self._connection.getresponse()
            if reply.status != 200:
                self.error = f"{reply.status} {reply.read()[:500]}"
                return
            for line in reply:
                if line.startswith(b"data: {"):
                    self._on_event(json.loads(line[6:]))
            self._connection.close()
        except (OSError, ValueError, AttributeError, http.client.HTTPException) as error:
            self.error = self.error or repr(error)

    def _on_event(self, event):
        if "error" in event:
            self.error = event["error"]["message"]
        if "progress" in event:
            self.processed = event["progress"]["processed_tokens"]
        if event.get("choices") and self.first_token is None:
            self.first_token = time.monotonic() - self.begin
        if event.get("usage"):
            self.cached = (event["usage"].get("prompt_tokens_details") or {}).get("cached_tokens", 0)

    def wait(self, seconds=3600):
        """Itself, ended. SystemExit if it failed."""
        self._thread.join(seconds)
        if self._thread.is_alive() or (self.error and not self._cancelled) or self.first_token is None:
            raise SystemExit(f"a request failed: {self.error or 'no answer'}")
        return self

    @property
    def running(self):
        return self._thread.is_alive()

    def cancel(self):
        self._cancelled = True
        self._socket.shutdown(socket.SHUT_RDWR)  # wakes the reader; the server sees the end
        self._thread.join(10)


def memory_budget(line):
    """The numbers of a rank's log line event=memory_budget, None for another line."""
    if "event=memory_budget" not in line:
        return None
    numbers = re.findall(r"(\w+)=([0-9.]+)(?= |$)", line.split("event=memory_budget", 1)[1].strip())
    return {name: float(value) if "." in value else int(value) for name, value in numbers}


def events(cluster, path, body):
    """What a streamed request brings: (seconds from its sending, event), one after another. SystemExit if it fails."""
    connection = cluster.connect(3600)
    begin = time.monotonic()
    connection.request("POST", path, json.dumps(dict(body, model=cluster.model, stream=True, timeout=3600)))
    reply = connection.getresponse()
    if reply.status != 200:
        raise SystemExit(f"{reply.status} {reply.read()[:500]}")
    for line in reply:
        if line.startswith(b"data: {"):
            event = json.loads(line[6:])
            if "error" in event:
                raise SystemExit(event["error"]["message"])
            yield time.monotonic() - begin, event
    connection.close()


def random_prompt(rng, tokens):
    return rng.choices(range(VOCABULARY), k=tokens)


def quantile(values, q):
    ordered = sorted(values)
    return ordered[max(0, min(len(ordered) - 1, round(q * len(ordered)) - 1))]


def seeded(seed):
    """A generator; the seed is drawn and printed if it is None."""
    seed = random.SystemRandom().randrange(2**32) if seed is None else seed
    print(f"seed {seed} (--seed)", flush=True)
    return random.Random(seed)


def _listening_port(pid):
    """The one TCP port on which the process listens: in a local group all else is Unix sockets."""
    sockets = set()
    for entry in pathlib.Path(f"/proc/{pid}/fd").iterdir():
        target = str(entry.readlink())
        if target.startswith("socket:["):
            sockets.add(target[len("socket:["):-1])
    ports = []
    for line in pathlib.Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[3] == LISTENING and fields[9] in sockets:
            ports.append(int(fields[1].split(":")[1], 16))
    if len(ports) != 1:
        raise SystemExit(f"the leader {pid} listens on {ports}, expected one port, that of its metrics")
    return ports[0]
