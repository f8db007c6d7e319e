"""Single programs of a cluster, for tests that need flags `longhaul serve` does not have."""

import subprocess
import threading

from conftest import PROGRAMS, SOURCE

READY_SECONDS = 60
STOP_SECONDS = 30


class Program:
    """A running program, from its `ready` line to its end."""

    def __init__(self, *command):
        self.log = []
        self.process = subprocess.Popen([str(part) for part in command], stdout=subprocess.PIPE,
                                        stderr=subprocess.PIPE, text=True)
        threading.Thread(target=lambda: self.log.extend(self.process.stderr), daemon=True).start()
        timer = threading.Timer(READY_SECONDS, self.process.kill)
        timer.start()
        line = self.process.stdout.readline()
        timer.cancel()
        if not line.startswith("ready "):
            self.process.wait()
            raise RuntimeError("not ready:\n" + "".join(self.log[-20:]))
        self.ready = dict(word.split("=", 1) for word in line.split()[1:])

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        assert self.process.wait(timeout=STOP_SECONDS) == 0, "".join(self.log[-20:])


class Leader(Program):
    """A leader of the demo model with its ranks; nothing is measured or kept before it is ready."""

    def __init__(self, *flags, listen="127.0.0.1:0"):
        super().__init__(PROGRAMS / "longhaul-worker", "leader", "--model",
                         SOURCE / "models" / "demo", "--served-model-name", "demo",
                         "--listen", listen, "--warm-up-seconds", 0, *flags)
        self.listen = self.ready["listen"]


class Router(Program):
    """A router of the demo model, on free ports, before the leader at `worker`."""

    def __init__(self, worker, *flags):
        super().__init__(PROGRAMS / "longhaul-router", "--model", SOURCE / "models" / "demo",
                         "--port", 0, "--grpc-port", 0, "--worker", worker, *flags)
        self.model = "demo"
        self.base = "http://" + self.ready["rest"]
        self.rest = self.base + "/v1"
        self.grpc = self.ready["grpc"]
