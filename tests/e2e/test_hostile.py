"""Bad input against a whole cluster: each piece gets a clear error, and nothing is left of it."""

import concurrent.futures
import contextlib
import json
import os
import pathlib
import random
import socket
import time

import grpc
import httpx
import pytest

import hostile_calls
import hostile_requests
import raw_http
from conftest import Cluster
from hostile_calls import Call
from hostile_requests import CHAT, MAX_MODEL_LEN, MIB

CASES = hostile_requests.cases()
MAX_ERROR_BYTES = 33 << 10  # a path of the longest head is repeated whole
HALF = 500
RSS_GROWTH = 1.05
SETTLING_REQUESTS = 60  # six seconds and more
# A head and 16 KiB of a body may take 30 s, a reader that accepts nothing too.
PATIENCE_SECONDS = (29, 37)
CANCELLED_CALLS = 3_000
IDLE_CONNECTIONS = 20
IDLE_CONNECTION_KIB = 256  # of the router's memory, read buffers and all


@pytest.fixture(scope="module")
def cluster():
    running = Cluster("--max-model-len", str(MAX_MODEL_LEN))
    yield running
    assert running.stop() == 0, "".join(running.log[-20:])


@pytest.fixture(scope="module")
def address(cluster):
    return raw_http.address_of(cluster.rest)


@pytest.fixture(scope="module")
def channel(cluster):
    with grpc.insecure_channel(cluster.grpc) as channel:
        yield channel


@pytest.fixture(scope="module")
def pids(cluster):
    return {name: cluster.pid_of(words) for name, words in {
        "router": "longhaul-router", "leader": "longhaul-worker leader",
        "rank": "longhaul-worker rank"}.items()}


@pytest.fixture(autouse=True)
def nobody_dies(cluster, pids):
    """The same processes run after each test."""
    yield
    for name, pid in pids.items():
        assert pathlib.Path(f"/proc/{pid}").exists(), (name, "".join(cluster.log[-20:]))
    assert httpx.get(cluster.base + "/health", timeout=5).status_code == 200


def assert_answers(cluster):
    """An ordinary request is answered."""
    reply = httpx.post(cluster.base + CHAT, json=hostile_requests.chat(), timeout=60)
    assert reply.status_code == 200, reply.text
    assert reply.json()["usage"]["completion_tokens"] == 1


def check(case, address):
    answer = raw_http.exchange(address, case.sent(), then=case.then, until_closed=case.closes)
    if case.then in ("leave", "reset"):
        return
    assert answer.status in case.status, (case.name, answer)
    if answer.status is None:
        return
    if case.closes:
        assert answer.closed and not answer.extra, (case.name, answer)
    if answer.status == 200:
        return
    assert len(answer.body) <= MAX_ERROR_BYTES, (case.name, len(answer.body))
    error = json.loads(answer.body)["error"]
    assert set(error) == {"message", "type", "param", "code"}, (case.name, error)
    assert error["message"] and error["type"], (case.name, error)
    for word in case.words:
        assert word in error["message"], (case.name, word, error)
    if case.param is not None:
        assert (error["param"] or "").startswith(case.param), (case.name, error)


def check_call(call, channel, stubs):
    error = call.code_of(channel)
    assert error is not None, call.name
    assert error.code() in call.codes, (call.name, error.code(), error.details()[:300])
    for word in call.words:
        assert word in error.details(), (call.name, word, error.details()[:300])
    if call.field is not None:
        trailers = dict(error.trailing_metadata())
        detail = stubs.types.ErrorDetail.FromString(trailers["longhaul-error-bin"])
        assert detail.field.startswith(call.field), (call.name, detail)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_request(address, case):
    check(case, address)


def test_calls(cluster, channel, stubs):
    wrong = []
    for call in hostile_calls.calls(stubs):
        try:
            check_call(call, channel, stubs)
        except AssertionError as error:
            wrong.append(str(error))
    assert not wrong, "\n".join(wrong)
    assert_answers(cluster)


def test_protocols_at_the_wrong_port(cluster, address):
    host, port = cluster.grpc.rsplit(":", 1)
    for data in (b"GET /health HTTP/1.1\r\n\r\n", bytes(MIB), random.Random(3).randbytes(MIB),
                 b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * MIB):
        with socket.create_connection((host, int(port)), timeout=10) as sock:
            try:
                sock.sendall(data)
                while sock.recv(1 << 16):
                    pass
            except ConnectionError:
                pass  # one of the two right answers
    with grpc.insecure_channel("%s:%d" % address) as channel:
        call = channel.unary_unary("/longhaul.v1.Inference/ListModels")
        with pytest.raises(grpc.RpcError) as caught:
            call(b"", timeout=5)
        assert caught.value.code() in (grpc.StatusCode.UNAVAILABLE,
                                       grpc.StatusCode.DEADLINE_EXCEEDED)


def test_thousands_of_cancelled_calls(cluster, channel, stubs):
    pb = stubs.inference
    request = pb.ChatRequest(model=cluster.model,
                             messages=[pb.ChatMessage(role="user", content="hi")],
                             options={"stopping": {"max_tokens": 500, "ignore_eos": True}})
    service = stubs.service.InferenceStub(channel)
    rng = random.Random(5)
    for _ in range(CANCELLED_CALLS // 100):
        calls = [service.Chat(request, timeout=60) for _ in range(100)]
        for call in calls:
            if rng.random() < 0.1:
                next(iter(call), None)
            call.cancel()
        for call in calls:
            with pytest.raises(grpc.RpcError) as caught:
                list(call)
            # Under pressure a call may be refused before it is cancelled.
            assert caught.value.code() in (grpc.StatusCode.CANCELLED,
                                           grpc.StatusCode.RESOURCE_EXHAUSTED)
    assert_answers(cluster)


def slow_clients():
    """name: (what is sent, whether a response is owed)."""
    def drip(first, *rest, pause):
        yield first
        for piece in rest:
            time.sleep(pause)
            yield piece
    head = b"POST " + CHAT.encode() + b" HTTP/1.1\r\nHost: x\r\n"
    body = head + b"Content-Length: 100000\r\n\r\n"
    chunks = head + b"Transfer-Encoding: chunked\r\n\r\n"
    return {
        "half a head, then silence": head,
        "a header each eight seconds": drip(head, *[b"x: y\r\n"] * 6, pause=8),
        "a byte of the head a second": drip(head, *[b"x"] * 60, pause=1),
        "half a body, then silence": body + b'{"model":',
        "a byte of the body a second": drip(body, *[b" "] * 60, pause=1),
        "no body at all": body,
        "half a chunk, then silence": chunks + b"5\r\n{",
        "half a chunk's size, then silence": chunks + b"1",
        "an endless chunk extension": drip(chunks + b"1;", *[b"x"] * 60, pause=1),
        "half a head, 100 times": head,
    }


def test_slow_clients(cluster, address):
    """All at once; each is answered 408, and meanwhile the others are served."""
    low, high = PATIENCE_SECONDS
    slow = slow_clients()
    many = slow.pop("half a head, 100 times")
    silent = [socket.create_connection(address) for _ in range(100)]
    for sock in silent:
        sock.sendall(many)
    reader = socket.socket()
    reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    reader.connect(address)
    # 4,000,000 tokens: an answer of some 14 MB, above what the kernel buffers.
    reader.sendall(hostile_requests.post("/tokenize", {"prompt": "1" * 4_000_000}))
    with concurrent.futures.ThreadPoolExecutor(len(slow)) as pool:
        begin = time.monotonic()
        answers = {name: pool.submit(raw_http.exchange, address, data, timeout=high)
                   for name, data in slow.items()}
        worst = 0.0
        while time.monotonic() < begin + low:
            start = time.monotonic()
            assert httpx.get(cluster.base + "/health", timeout=5).status_code == 200
            assert_answers(cluster)
            worst = max(worst, time.monotonic() - start)
            time.sleep(0.2)
        print(f"beside slow clients /health and one token took at most {worst:.3f} s")
        for name, future in answers.items():
            answer = future.result()
            assert answer.status == 408, (name, answer)
            assert low <= answer.seconds <= high, (name, answer.seconds)
    for sock in silent:
        sock.settimeout(5)
        assert sock.recv(1 << 16).startswith(b"HTTP/1.1 408 "), "a silent head"
        sock.close()
    time.sleep(max(0, begin + high - time.monotonic()))
    received = 0
    reader.settimeout(5)
    try:
        while piece := reader.recv(1 << 20):
            received += len(piece)
    except ConnectionResetError:
        pass
    reader.close()
    assert 0 < received < 10 * MIB, f"the slow reader got {received} bytes of its answer"


def memory_kib(pid, key="VmRSS"):
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1])
    raise ValueError(key)


def settled(cluster, pids):
    """Memory of each process, KiB, at its least while some ordinary requests are answered: what a
    connection still holds goes with it, and malloc gives back what lay above."""
    least = {name: memory_kib(pid) for name, pid in pids.items()}
    for _ in range(SETTLING_REQUESTS):
        assert_answers(cluster)
        time.sleep(0.1)
        least = {name: min(least[name], memory_kib(pid)) for name, pid in pids.items()}
    return least


@pytest.mark.skipif("LONGHAUL_SANITIZED" in os.environ, reason="sanitizers keep freed memory")
def test_idle_connections_hold_little(cluster, pids, stubs):
    """Connections that once sent large calls and then stay open without any."""
    request = stubs.inference.ChatRequest(
        model="nobody", messages=[stubs.inference.ChatMessage(role="user", content="a" * 8 * MIB)])
    with contextlib.ExitStack() as connections:
        def dial():
            # Channels of one target share a connection otherwise.
            channel = connections.enter_context(
                grpc.insecure_channel(cluster.grpc, [("grpc.use_local_subchannel_pool", 1)]))
            grpc.channel_ready_future(channel).result(timeout=10)
            return stubs.service.InferenceStub(channel)
        services = [dial() for _ in range(IDLE_CONNECTIONS)]
        before = settled(cluster, pids)["router"]
        for service in services:
            for _ in range(3):
                with pytest.raises(grpc.RpcError) as caught:
                    list(service.Chat(request, timeout=30))
                assert caught.value.code() == grpc.StatusCode.NOT_FOUND
        after = settled(cluster, pids)["router"]
    print(f"router: RSS {before} KiB, after {IDLE_CONNECTIONS} connections' large calls {after} KiB")
    assert after - before <= IDLE_CONNECTIONS * IDLE_CONNECTION_KIB, (before, after)


@pytest.mark.skipif("LONGHAUL_SANITIZED" in os.environ, reason="sanitizers keep freed memory")
def test_memory_stays(cluster, pids, address, channel, stubs):
    """500 pieces of bad input, and 500 more: none of the processes grows by 5% with the latter.

    The second 500 are the first in another order: what a process keeps of the largest piece that it
    ever met is then no growth, but a leak still is."""
    seed = int(os.environ.get("LONGHAUL_TEST_SEED", random.SystemRandom().randrange(2**32)))
    print(f"seed {seed} (LONGHAUL_TEST_SEED)")
    rng = random.Random(seed)
    calls = hostile_calls.calls(stubs)
    # The KV cache is memory once it has been used: so many requests at once touch it before.
    with concurrent.futures.ThreadPoolExecutor(32) as pool:
        for done in [pool.submit(assert_answers, cluster) for _ in range(64)]:
            done.result()
    hostile = rng.sample(CASES, HALF * 4 // 5) + rng.sample(calls, HALF // 5)
    halves = []
    for _ in range(2):
        rng.shuffle(hostile)
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            def send(piece):
                if isinstance(piece, Call):
                    piece.code_of(channel)
                else:
                    check(piece, address)
            for done in [pool.submit(send, piece) for piece in hostile]:
                done.result()
        halves.append(settled(cluster, pids))
    for name, pid in pids.items():
        print(f"{name}: RSS {halves[0][name]} KiB, then {halves[1][name]} KiB; peak "
              f"{memory_kib(pid, 'VmHWM')} KiB")
    grown = {name: halves[1][name] / halves[0][name] for name in pids}
    assert max(grown.values()) <= RSS_GROWTH, (grown, halves)
    assert_answers(cluster)


def test_the_log_is_short_and_holds_no_prompt(cluster):
    log = "".join(cluster.log)
    assert "The grass is green" not in log
    assert max(map(len, cluster.log)) < 4096
    assert "CHECK failed" not in log
