"""A client that sends bytes as they are: what no HTTP library would send."""

import dataclasses
import select
import socket
import struct
import time

# No answer to bad input needs more: an error that repeats what it was sent is none.
MAX_ANSWER_BYTES = 64 << 20
CHUNK = 1 << 18


@dataclasses.dataclass
class Answer:
    """What came back: the first final response, and whether bytes followed it."""

    status: int | None = None  # None: the server closed without a response
    head: str = ""
    body: bytes = b""
    extra: bytes = b""  # after the response
    interim: int = 0    # 1xx responses before it
    closed: bool = False
    seconds: float = 0.0


def address_of(url):
    host, port = url.split("//")[1].split("/")[0].rsplit(":", 1)
    return host, int(port)


def exchange(address, data, *, then="wait", timeout=20.0, until_closed=False):
    """Sends `data` (bytes, or an iterable of them), reading all the while; returns an Answer.

    `then` is what the client does once all is sent: "wait" for the answer, "shut" its sending side,
    "leave" (closes at once) or "reset" (closes with a reset). The answer ends where its own framing
    says; with `until_closed` the server has to close after it. TimeoutError if neither comes.
    """
    begin = time.monotonic()
    with socket.socket() as sock:
        sock.settimeout(timeout)
        sock.connect(address)
        sock.setblocking(False)
        pieces = iter([data] if isinstance(data, bytes) else data)
        unsent = memoryview(b"")
        received = bytearray()
        answer = Answer()
        sending = True
        while True:
            if sending and not unsent:
                piece = next(pieces, None)
                if piece is None:
                    sending = False
                    if then == "shut":
                        _shut(sock)
                    elif then == "reset":
                        linger = struct.pack("ii", 1, 0)
                        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                    if then in ("leave", "reset"):
                        return answer
                else:
                    unsent = memoryview(piece)
                    continue
            left = begin + timeout - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"no end of the answer after {timeout} s; so far "
                                   f"{bytes(received[:300])!r}")
            readable, writable, _ = select.select([sock], [sock] if unsent else [], [], left)
            if writable:
                try:
                    unsent = unsent[sock.send(unsent[:CHUNK]):]
                except (BrokenPipeError, ConnectionResetError):
                    unsent, pieces = memoryview(b""), iter(())
            if readable:
                try:
                    got = sock.recv(CHUNK)
                except ConnectionResetError:
                    got = b""
                received += got
                assert len(received) <= MAX_ANSWER_BYTES, received[:300]
                answer.closed = not got
            if (_take_response(answer, received) and not until_closed) or answer.closed:
                answer.seconds = time.monotonic() - begin
                return answer


def _shut(sock):
    try:
        sock.shutdown(socket.SHUT_WR)
    except OSError:
        pass  # the server has closed already; what it said is still to be read


def _take_response(answer, received):
    """Fills `answer` from what was received; whether the response is whole."""
    rest = bytes(received)
    answer.interim = 0
    while True:
        head, end, rest = rest.partition(b"\r\n\r\n")
        if not end:
            return False
        status = int(head.split(b" ", 2)[1])
        if status >= 200:
            break
        answer.interim += 1
    answer.status, answer.head = status, head.decode("latin-1")
    fields = {}
    for line in answer.head.split("\r\n")[1:]:
        name, _, value = line.partition(":")
        fields[name.lower()] = value.strip()
    if "content-length" in fields:
        length = int(fields["content-length"])
        answer.body, answer.extra = rest[:length], rest[length:]
        return len(rest) >= length
    if fields.get("transfer-encoding") == "chunked":
        return _take_chunks(answer, rest)
    answer.body = rest
    return answer.closed


def _take_chunks(answer, rest):
    answer.body = b""
    while True:
        size, end, rest = rest.partition(b"\r\n")
        if not end:
            return False
        count = int(size, 16)
        if len(rest) < count + 2:
            return False
        answer.body, rest = answer.body + rest[:count], rest[count + 2:]
        if count == 0:
            answer.extra = rest
            return True
