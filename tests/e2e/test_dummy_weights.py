"""`--load-format dummy`: a model of which there is everything but weights."""

import json
import shutil
import subprocess
import sys

import httpx
import pytest

from conftest import COLD, PROGRAMS, SOURCE, Cluster

DEMO = SOURCE / "models" / "demo"
RUN_SECONDS = 120
PROMPT_TOKENS = 700


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "weightless"
    folder.mkdir()
    for name in ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(DEMO / name, folder / name)
    return folder


def generate(model, *flags):
    command = [PROGRAMS / "longhaul", "generate", model, *COLD, "--prompt-file", "-", "--raw",
               "--max-tokens", "12", "--temperature", "0", *flags]
    return subprocess.run(command, input=b"one two three " * 50, capture_output=True,
                          timeout=RUN_SECONDS)


def test_generate_answers_the_same_however_the_model_is_cut(model):
    whole = generate(model, "--load-format", "dummy")
    assert whole.returncode == 0, whole.stderr
    cut = generate(model, "--load-format", "dummy", "--tensor-parallel-size", "2",
                   "--pipeline-parallel-size", "2")
    assert cut.returncode == 0, cut.stderr
    assert cut.stdout == whole.stdout


def test_weights_are_asked_for_without_it(model):
    result = generate(model)
    assert result.returncode != 0
    assert "safetensors" in result.stderr.decode()


def test_prompts_of_benchmarks_are_answered(model):
    made = subprocess.run(
        [sys.executable, SOURCE / "tests/bench/dummy_prompt.py", "--model", model, "--tokens",
         str(PROMPT_TOKENS), "--max-tokens", "4"], check=True, capture_output=True, timeout=60)
    body = json.loads(made.stdout)
    assert all(token % 200 == 0 for token in body["prompt"][:30])
    assert len(set(body["prompt"])) > PROMPT_TOKENS // 2
    cluster = Cluster("--load-format", "dummy", model=model)
    try:
        answers = [httpx.post(cluster.rest + "/completions", timeout=60,
                              json={**body, "model": cluster.model, "logprobs": 1}).json()
                   for _ in range(2)]
    finally:
        assert cluster.stop() == 0, "".join(cluster.log[-20:])
    assert answers[0]["usage"]["prompt_tokens"] == PROMPT_TOKENS, answers[0]
    assert answers[0]["usage"]["completion_tokens"] == 4
    choices = [answer["choices"][0] for answer in answers]
    assert choices[0]["text"] == choices[1]["text"]
    assert all(-12 < value <= 0 for value in choices[0]["logprobs"]["token_logprobs"])
