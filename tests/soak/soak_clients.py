"""Sends one request as its fate wants it, and says how it ended."""

import dataclasses
import json
import threading
import time

import grpc

import raw_http

PATIENCE_SECONDS = 900  # for one answer; longer counts as none
ENDED_BY_STATUS = {429: "refused", 499: "cancelled", 504: "deadline"}
ENDED_BY_CODE = {grpc.StatusCode.CANCELLED: "cancelled", grpc.StatusCode.DEADLINE_EXCEEDED: "deadline",
                 grpc.StatusCode.RESOURCE_EXHAUSTED: "refused"}
REASONS = {1: "stop", 2: "length"}  # of FinishReason


@dataclasses.dataclass(frozen=True)
class Ending:
    how: str        # stop | length | refused | cancelled | deadline | left | broken
    text: str = ""  # the answer, or what is broken about it
    known: bool = True  # whether the router has to have counted it so too


def broken(what):
    return Ending("broken", str(what)[:500])


class RestClient:
    def __init__(self, address, model):
        self._address, self._model = address, model

    def ending(self, request):
        body = {"model": self._model, "max_tokens": request.max_tokens, "priority": request.priority,
                "stream": request.stream}
        if isinstance(request.prompt, str):
            path, body["messages"] = "chat/completions", [{"role": "user", "content": request.prompt}]
        else:
            path, body["prompt"], body["ignore_eos"] = "completions", request.prompt, True
        if request.fate == "expires":
            body["timeout"] = request.seconds
        data = json.dumps(body).encode()
        head = (f"POST /v1/{path} HTTP/1.1\r\nHost: soak\r\nContent-Type: application/json\r\n"
                f"Content-Length: {len(data)}\r\n\r\n").encode()
        then = {"leaves": "leave", "half-closes": "shut", "resets": "reset"}.get(request.fate, "wait")
        try:
            answer = raw_http.exchange(self._address, _sent(head + data, then, request.seconds),
                                       then=then, timeout=PATIENCE_SECONDS)
        except TimeoutError as error:
            return broken(error)
        if then in ("leave", "reset"):
            return Ending("left", known=False)
        if answer.status is None:
            return broken("closed without an answer")
        if answer.status != 200:
            how = ENDED_BY_STATUS.get(answer.status)
            return Ending(how) if how else broken(f"{answer.status} {answer.body[:300]}")
        return _of_events(answer.body) if request.stream else _of_body(json.loads(answer.body))


def _sent(data, then, seconds):
    yield data
    if then != "wait":
        time.sleep(seconds)


def _of_body(body):
    choice = body["choices"][0]
    text = choice["message"]["content"] if "message" in choice else choice["text"]
    return Ending(choice["finish_reason"], text)


def _of_events(body):
    """Of an event stream: text, then one finish reason or one error, then [DONE]."""
    events = [line.removeprefix("data: ") for line in body.decode().split("\n")
              if line.startswith("data: ")]
    if not events or events.pop() != "[DONE]":
        return broken(f"a stream without [DONE]: {body[-300:]!r}")
    text, endings = "", []
    for event in map(json.loads, events):
        if endings:
            return broken(f"an event behind the end: {event}")
        if "error" in event:
            codes = {"cancelled": "cancelled", "deadline_exceeded": "deadline",
                     "rate_limit_exceeded": "refused"}
            how = codes.get(event["error"]["code"])
            endings.append(Ending(how) if how else broken(event))
            continue
        for choice in event["choices"]:
            text += choice.get("text") or choice.get("delta", {}).get("content") or ""
            if choice.get("finish_reason"):
                endings.append(Ending(choice["finish_reason"], text))
    return endings[0] if endings else broken(f"a stream without an end: {body[-300:]!r}")


class GrpcClient:
    def __init__(self, channel, stubs, model):
        self._stub, self._stubs, self._model = stubs.service.InferenceStub(channel), stubs, model

    def ending(self, request):
        pb, types = self._stubs.inference, self._stubs.types
        chat = isinstance(request.prompt, str)
        options = pb.GenerateOptions(
            priority=request.priority,
            stopping=types.Stopping(max_tokens=request.max_tokens, ignore_eos=not chat))
        timeout = request.seconds if request.fate == "expires" else PATIENCE_SECONDS
        if chat:
            call = self._stub.Chat(pb.ChatRequest(
                model=self._model, options=options,
                messages=[pb.ChatMessage(role="user", content=request.prompt)]), timeout=timeout)
        else:
            call = self._stub.Complete(pb.CompleteRequest(
                model=self._model, options=options,
                prompt_ids=pb.TokenIds(ids=request.prompt)), timeout=timeout)
        timer = threading.Timer(request.seconds, call.cancel)
        if request.fate == "leaves":
            timer.start()
        try:
            return self._read(call)
        finally:
            timer.cancel()

    def _read(self, call):
        text, kinds, reason = "", [], 0
        try:
            for event in call:
                kinds.append(event.WhichOneof("event"))
                text += event.delta.text
                reason = event.finished.reason
        except grpc.RpcError as error:
            if "finished" in kinds:
                return broken(f"{error.code()} behind the end")
            how = ENDED_BY_CODE.get(error.code())
            if how is None:
                return broken(f"{error.code()}: {error.details()}")
            # What the client itself ends may have ended otherwise at the router, or never got there.
            return Ending(how, known=how == "refused")
        order = {"queued": 0, "progress": 1, "delta": 2, "finished": 3}
        ranks = [order.get(kind, -1) for kind in kinds]
        if ranks != sorted(ranks) or ranks.count(0) != 1 or ranks.count(3) != 1 or reason not in REASONS:
            return broken(f"events {kinds}, reason {reason}")
        return Ending(REASONS[reason], text)
