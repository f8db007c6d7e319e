"""Fixtures of the end-to-end tests: a running cluster, and clients of it."""

import os
import pathlib
import signal
import subprocess
import sys
import threading

import pytest

import metrics

SOURCE = pathlib.Path(os.environ["LONGHAUL_SOURCE_DIR"])
PROGRAMS = pathlib.Path(os.environ["LONGHAUL_BIN_DIR"])
READY_SECONDS = 60

sys.path.insert(0, str(SOURCE / "tests" / "testing"))


# Costs are learnt from the tests' own requests, and nothing is left in the user's cache folder.
COLD = ("--warm-up-seconds", "0", "--cost-model-dir", "")


def children_of(pid):
    """All processes below `pid`: {pid: command line}."""
    parents, commands = {}, {}
    for entry in pathlib.Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            stat = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if stat[0] != "Z":
            parents[int(entry.name)] = int(stat[1])
            commands[int(entry.name)] = command.strip()
    found, frontier = {}, [pid]
    while frontier:
        parent = frontier.pop()
        for child, ppid in parents.items():
            if ppid == parent:
                found[child] = commands[child]
                frontier.append(child)
    return found


class Cluster:
    """`longhaul serve` on free ports, stopped and checked by `stop`."""

    def __init__(self, *flags, model=SOURCE / "models" / "demo", warm_up=COLD):
        self.log = []
        self.process = subprocess.Popen(
            [PROGRAMS / "longhaul", "serve", model, "--host", "127.0.0.1", "--port", "0",
             "--grpc-port", "0", "--device", "cpu", *warm_up, *flags],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self._reader = threading.Thread(target=self._read_log, daemon=True)
        self._reader.start()
        timer = threading.Timer(READY_SECONDS, self.process.kill)
        timer.start()
        line = self.process.stdout.readline()
        timer.cancel()
        if not line.startswith("ready "):
            self.process.wait()
            raise RuntimeError("not ready:\n" + "".join(self.log[-20:]))
        words = dict(word.split("=", 1) for word in line.split()[1:])
        self.model = words["model"]
        self.rest = words["rest"]  # with /v1
        self.base = self.rest.removesuffix("/v1")
        self.grpc = words["grpc"]

    def _read_log(self):
        for line in self.process.stderr:
            self.log.append(line)

    def children(self):
        """All processes below the serving one: {pid: command line}."""
        return children_of(self.process.pid)

    def pid_of(self, words):
        """The pid of the one child whose command line holds `words`."""
        pids = [pid for pid, command in self.children().items() if words in command]
        assert len(pids) == 1, (words, self.children())
        return pids[0]

    def stop(self, seconds=30):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=seconds)


@pytest.fixture(scope="module")
def cluster():
    running = Cluster()
    yield running
    children = running.children()
    assert running.stop() == 0, "".join(running.log[-20:])
    alive = [pid for pid in children if pathlib.Path(f"/proc/{pid}").exists()]
    assert not alive, f"left behind: {alive}"


@pytest.fixture(scope="module")
def worker(cluster):
    """Metrics of the cluster's leader."""
    return metrics.WorkerMetrics(cluster.pid_of("longhaul-worker leader"))


@pytest.fixture(scope="session")
def stubs():
    return make_stubs()


def make_stubs():
    """Python stubs made from the protos alone."""
    folder = pathlib.Path(os.environ["LONGHAUL_STUB_DIR"])
    folder.mkdir(parents=True, exist_ok=True)
    protos = sorted((SOURCE / "proto").rglob("*.proto"))
    subprocess.run(
        [sys.executable, "-m", "grpc_tools.protoc", "-I", SOURCE / "proto",
         f"--python_out={folder}", f"--grpc_python_out={folder}", *protos], check=True)
    sys.path.insert(0, str(folder))
    from longhaul.v1 import (inference_pb2, inference_pb2_grpc, types_pb2, worker_pb2,
                             worker_pb2_grpc)
    class Stubs:
        pass
    result = Stubs()
    result.inference = inference_pb2
    result.service = inference_pb2_grpc
    result.types = types_pb2
    result.worker = worker_pb2
    result.worker_service = worker_pb2_grpc
    return result
