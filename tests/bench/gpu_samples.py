"""What nvidia-smi says of the GPUs while something runs: memory, clocks, power. Needs no packages."""

import re
import select
import statistics
import subprocess
import threading
import time

PERIOD_MS = 200
FIRST_LINE_SECONDS = 3
FIELDS = ("index", "memory.used", "clocks.sm", "power.draw")
CARD_FIELDS = ("name", "driver_version", "clocks.sm", "clocks.mem", "power.draw", "temperature.gpu", "memory.total",
               "memory.reserved")
MIB = 2**20


def query(fields):
    """A list of values for each GPU, as text without units. SystemExit if there is no GPU to ask."""
    command = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SystemExit(f"no GPU here: {' '.join(command)}: {error}") from error
    if done.returncode != 0 or not done.stdout.strip():
        raise SystemExit(f"no GPU here: {' '.join(command)}: {(done.stdout + done.stderr).strip()}")
    return [[value.strip() for value in line.split(",")] for line in done.stdout.strip().splitlines()]


def card():
    """The first GPU, by the names of nvidia-smi."""
    return dict(zip(CARD_FIELDS, query(CARD_FIELDS)[0]))


def memory_mib():
    """Of the first GPU: all of it, and what of that the driver keeps for itself."""
    total, reserved = query(["memory.total", "memory.reserved"])[0]
    return float(total), float(reserved) if re.fullmatch(r"[0-9.]+", reserved) else 0.0


def used_gb():
    """Memory of the first GPU that is used now."""
    used = query(["memory.used"])[0][0]
    return float(used) * MIB / 1e9 if re.fullmatch(r"[0-9.]+", used) else 0.0


def parse_sample(line):
    """(GPU, memory in bytes, SM clock in MHz, watts); None for a line that is none. A value not supported is None."""
    words = [word.strip() for word in line.split(",")]
    if len(words) != len(FIELDS) or not words[0].isdigit():
        return None
    numbers = [float(word) if re.fullmatch(r"[0-9.]+", word) else None for word in words[1:]]
    memory = None if numbers[0] is None else int(numbers[0] * MIB)
    return int(words[0]), memory, numbers[1], numbers[2]


def summary(samples):
    """Of samples of one GPU: peak memory, and the median and extremes of clock and power."""
    result = {"samples": len(samples)}
    memory = [sample[1] for sample in samples if sample[1] is not None]
    if memory:
        result["memory_peak_gb"] = round(max(memory) / 1e9, 3)
    for name, column in (("sm_mhz", 2), ("power_w", 3)):
        values = [sample[column] for sample in samples if sample[column] is not None]
        if values:
            result[name] = {"median": round(statistics.median(values), 1), "min": min(values), "max": max(values)}
    return result


def memory_kept(budget, before_gb, peak_gb, total_mib, reserved_mib):
    """A rank's budget (the values of its event=memory_budget line) beside what its GPU held at most.

    The budget's free_gb were free when the rank had begun to use the device: what was not free is others' memory
    and the rank's context, and is not the budget's.
    """
    outside = (total_mib - reserved_mib) * MIB / 1e9 - budget["free_gb"]
    taken = peak_gb - outside
    return {"memory_before_gb": round(before_gb, 3), "memory_outside_gb": round(outside, 3),
            "memory_peak_gb": round(peak_gb, 3), "memory_taken_gb": round(taken, 3),
            "memory_allowed_gb": budget["allowed_gb"], "memory_kept": taken <= budget["allowed_gb"] + 0.01,
            "budget": budget}


class GpuSamples:
    """Samples of all GPUs, each PERIOD_MS, from `with` to its end. SystemExit if there is no GPU."""

    def __init__(self):
        query(["index"])
        self._samples = []  # (seconds of time.monotonic, *parse_sample)
        self._stopped = threading.Event()

    def __enter__(self):
        self._process = subprocess.Popen(
            ["nvidia-smi", f"--query-gpu={','.join(FIELDS)}", "--format=csv,noheader,nounits", "-lms", str(PERIOD_MS)],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        return self

    def __exit__(self, *_):
        self._stopped.set()
        self._process.terminate()
        self._process.wait(timeout=10)
        self._reader.join(10)

    def _read(self):
        # A program that keeps its lines until it has a page of them is of no use: it is then asked over and over.
        if select.select([self._process.stdout], [], [], FIRST_LINE_SECONDS)[0]:
            for line in self._process.stdout:
                self._take(parse_sample(line))
            return
        while not self._stopped.wait(PERIOD_MS / 1e3):
            for words in query(FIELDS):
                self._take(parse_sample(", ".join(words)))

    def _take(self, sample):
        if sample is not None:
            self._samples.append((time.monotonic(), *sample))

    def between(self, begin, end, gpu=0):
        """Of one GPU, as parse_sample has them; begin and end as time.monotonic says."""
        return [sample[1:] for sample in list(self._samples) if begin <= sample[0] <= end and sample[1] == gpu]

    def summary(self, begin, end, gpu=0):
        return summary(self.between(begin, end, gpu))
