"""A leader without a model: it speaks worker.proto, and a test writes what it answers.

`script` is called for each Execute with the call and yields keyword arguments of ExecuteEvent.
"""

import concurrent.futures
import threading
import time

import grpc

LOAD_SECONDS = 0.5
# No call is open longer, whatever a test forgets.
HOLD_SECONDS = 60


class ScriptedLeader:
    def __init__(self, stubs, **hello):
        self.stubs = stubs
        self.pb = stubs.worker
        self.script = self.says(0)
        self.headers, self.prompts = [], []  # of every Execute
        self._hello = dict(incarnation=1, model="demo", model_digest=b"d" * 16,
                           max_model_len=1048576, kv_block_tokens=256, kv_blocks=4224,
                           max_waiting_long=1, long_prompt_tokens=32768, pipeline_parallel_size=1,
                           tensor_parallel_size=1, prefix_root=b"r" * 16) | hello
        self._stop = threading.Event()
        self._server = grpc.server(concurrent.futures.ThreadPoolExecutor(16))
        servicer = stubs.worker_service.WorkerServicer()  # answers the rest with UNIMPLEMENTED
        servicer.Watch, servicer.Execute = self._watch, self._execute
        stubs.worker_service.add_WorkerServicer_to_server(servicer, self._server)
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._server.stop(grace=None).wait()

    def _watch(self, request, context):
        yield self.pb.WatchEvent(hello=self.pb.Hello(
            protocol_version=request.protocol_version, **self._hello))
        sequence = 0
        while context.is_active() and not self._stop.is_set():
            sequence += 1
            yield self.pb.WatchEvent(load=self.pb.Load(
                sequence=sequence, free_kv_blocks=self._hello["kv_blocks"], ready=True))
            self._stop.wait(LOAD_SECONDS)

    def _execute(self, messages, context):
        header, ids = next(messages).header, []
        while len(ids) < header.prompt_tokens:
            ids.extend(next(messages).prompt.ids)
        self.headers.append(header)
        self.prompts.append(ids)
        for number, event in enumerate(self.script(header, context)):
            yield self.pb.ExecuteEvent(number=number, **event)

    # What scripts are made of.

    def admitted(self, cached_tokens=0):
        return dict(admitted=self.pb.Admitted(cached_tokens=cached_tokens))

    def tokens(self, *ids):
        return dict(tokens=self.pb.Tokens(
            tokens=[self.stubs.types.GeneratedToken(token_id=each) for each in ids]))

    def finished(self, reason="STOP", **fields):
        return dict(finished=self.pb.ExecuteFinished(
            reason=self.stubs.types.FinishReason.Value("FINISH_REASON_" + reason), **fields))

    # Scripts.

    def says(self, *ids, cached_tokens=0):
        """Answers with the tokens."""
        def script(header, context):
            yield self.admitted(cached_tokens)
            yield self.tokens(*ids)
            yield self.finished(prompt_tokens=header.prompt_tokens, cached_tokens=cached_tokens,
                                completion_tokens=len(ids))
        return script

    def holds(self, release):
        """Says nothing until the event `release`; then answers with one token."""
        def script(header, context):
            yield self.admitted()
            end = time.monotonic() + HOLD_SECONDS
            while context.is_active() and not release.wait(0.02) and time.monotonic() < end:
                pass
            yield self.tokens(0)
            yield self.finished(prompt_tokens=header.prompt_tokens, completion_tokens=1)
        return script

    def fails(self, code, message, after=()):
        """The engine's own failure of one request, after the tokens `after`."""
        def script(header, context):
            yield self.admitted()
            if after:
                yield self.tokens(*after)
            yield self.finished("ERROR", error=message, error_code=code.value[0])
        return script

    def breaks_off(self, after=()):
        """The group is lost, after the tokens `after`."""
        def script(header, context):
            yield self.admitted()
            if after:
                yield self.tokens(*after)
            context.abort(grpc.StatusCode.UNAVAILABLE, "the ranks were lost")
        return script
