"""The parts of the GPU benchmarks that need no GPU. Run by CTest (bench/scripts)."""

import json
import pathlib
import subprocess
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

import bench_cluster  # noqa: E402  (found through the line above)
import gpu_dense_bench  # noqa: E402
import gpu_golden_bench  # noqa: E402
import gpu_parallel_bench  # noqa: E402
import gpu_samples  # noqa: E402
import shared_gpu  # noqa: E402

MIB = 2**20


def test_reads_a_line_of_nvidia_smi():
    assert gpu_samples.parse_sample("1, 1024, 1980, 650.25") == (1, 1024 * MIB, 1980.0, 650.25)
    assert gpu_samples.parse_sample("0, 10, [N/A], [Not Supported]") == (0, 10 * MIB, None, None)
    for line in ("", "no GPU", "0, 1, 2", "x, 1, 2, 3"):
        assert gpu_samples.parse_sample(line) is None


def test_summarises_samples_and_leaves_out_what_a_card_does_not_say():
    samples = [(0, 10**9, 1500.0, None), (0, 3 * 10**9, 1900.0, None), (0, 2 * 10**9, 1700.0, None)]
    assert gpu_samples.summary(samples) == {
        "samples": 3, "memory_peak_gb": 3.0, "sm_mhz": {"median": 1700.0, "min": 1500.0, "max": 1900.0}}
    assert gpu_samples.summary([]) == {"samples": 0}


@pytest.mark.parametrize("peak_gb, kept", [(101.0, True), (101.2, False)])
def test_memory_is_kept_up_to_what_the_budget_allows_besides_what_others_have(peak_gb, kept):
    total_mib, reserved_mib = 150_000, 500
    free_gb = (total_mib - reserved_mib) * MIB / 1e9 - 1  # others and the rank's context have 1 GB
    budget = {"rank": 0, "free_gb": free_gb, "allowed_gb": 100.05}
    result = gpu_samples.memory_kept(budget, 0.5, peak_gb, total_mib, reserved_mib)
    assert result["memory_outside_gb"] == 1.0
    assert result["memory_taken_gb"] == pytest.approx(peak_gb - 1)
    assert result["memory_kept"] is kept


def test_reads_the_budget_that_a_rank_logs():
    line = ("2026-11-24T00:02:17.6Z I rank device_memory.cc:45 event=memory_budget rank=1 free_gb=149.50 "
            "allowed_gb=137.54 weights_gb=15.23 kv_tokens=1010000\n")
    assert bench_cluster.memory_budget(line) == {
        "rank": 1, "free_gb": 149.5, "allowed_gb": 137.54, "weights_gb": 15.23, "kv_tokens": 1_010_000}
    assert bench_cluster.memory_budget("event=started rank=1") is None


def line_of(ttft_s, share):
    return {"part": "ttft", "ttft_s": ttft_s, "tpot_ms": ttft_s * 10, "floor_share": share}


def test_a_length_that_is_measured_again_replaces_itself_alone():
    result = {"samples": ["before"], "ttft_s": {"32768": 1.0, "524288": 110.0}, "tpot_ms": {"32768": 5.0},
              "ttft_floor_share": {"32768": 0.8, "524288": 0.99}, "ttft_floor_share_min": 0.8}
    gpu_dense_bench.enter(result, 1_004_000, line_of(400.0, 0.97))
    assert result["ttft_floor_share_min"] == 0.8
    gpu_dense_bench.enter(result, 32_768, line_of(0.9, 0.95))
    assert result["ttft_s"] == {"32768": 0.9, "524288": 110.0, "1004000": 400.0}
    assert list(result["tpot_ms"]) == ["32768", "1004000"]
    assert result["tpot_ms_1m"] == 4000.0
    assert result["ttft_floor_share_min"] == 0.95
    assert len(result["samples"]) == 3


def test_a_length_without_a_floor_has_no_share():
    result = {"samples": []}
    gpu_dense_bench.enter(result, 1024, line_of(0.1, None))
    assert result["ttft_s"] == {"1024": 0.1} and "ttft_floor_share" not in result


def answer(tokens, logprobs=None, top=None):
    logprobs = logprobs or [-0.5] * len(tokens)
    return {"tokens": list(tokens), "logprobs": logprobs,
            "top": top or [{token: logprob} for token, logprob in zip(tokens, logprobs)]}


def test_answers_are_compared_up_to_their_first_difference():
    cpu = answer("abc", [-0.1, -0.6, -0.2], [{"a": -0.1}, {"b": -0.6, "x": -0.7}, {"c": -0.2}])
    gpu = answer("axd", [-0.15, -0.6, -0.9], [{"a": -0.15}, {"x": -0.6, "b": -0.625}, {"d": -0.9}])
    result = gpu_golden_bench.compare(cpu, gpu)
    assert result["at"] == 1 and result["tokens"] == ["b", "x"]
    assert [value for value, exact in result["margins"] if exact] == pytest.approx([0.1, 0.025])
    assert result["logprob_difference"] == pytest.approx(0.05)
    assert gpu_golden_bench.is_near_tie(result, 0.11) and not gpu_golden_bench.is_near_tie(result, 0.09)
    assert gpu_golden_bench.compare(cpu, cpu) == {"at": None, "logprob_difference": 0.0}


def test_a_token_that_is_no_alternative_is_no_near_tie():
    result = gpu_golden_bench.compare(answer("b", [-0.5], [{"b": -0.5, "c": -0.6}]), answer("x", [-0.5]))
    assert result["margins"][0] == (pytest.approx(0.1), False)
    assert not gpu_golden_bench.is_near_tie(result, 100)


def test_finds_the_golden_prompts():
    lengths = [len(prompt) for prompt in gpu_golden_bench.golden_prompts()]
    assert len(lengths) == 50 and min(lengths) == 1 and max(lengths) == 4000


def test_the_bubble_is_what_stages_wait_while_plans_are_in_flight():
    before = {"busy_seconds_total": 10.0, 'stage_busy_seconds_total{stage="0"}': 7.0}
    after = {"busy_seconds_total": 20.0, 'stage_busy_seconds_total{stage="0"}': 16.0,
             'stage_busy_seconds_total{stage="1"}': 8.0}
    assert gpu_parallel_bench.bubble(before, after, 2) == pytest.approx(1 - 17 / 20)
    assert gpu_parallel_bench.bubble(before, before, 1) is None


def test_finds_the_value_of_a_flag():
    flags = ["--a", "1", "--b=2", "--c"]
    assert [gpu_parallel_bench.flag_of(flags, name) for name in ("--a", "--b", "--c", "--d")] == ["1", "2", None, None]


@pytest.mark.parametrize("tokens", gpu_parallel_bench.PASS_KEYS + gpu_parallel_bench.RANDOM_IDS)
def test_no_prompt_of_the_sameness_ends_in_few_rows(tokens):
    assert tokens % 256 == 0 or tokens % 256 >= 128


def test_answers_are_judged_bit_by_bit_or_within_a_tolerance():
    one = answer("ab", [-0.5, -0.25])
    other = answer("ab", [-0.5, -0.2500001])
    assert gpu_parallel_bench.judge(one, one, None) == (True, "bit by bit")
    assert not gpu_parallel_bench.judge(one, other, None)[0]
    assert gpu_parallel_bench.judge(one, other, 1e-6)[0]
    assert not gpu_parallel_bench.judge(one, other, 1e-8)[0]
    assert not gpu_parallel_bench.judge(one, answer("a"), None)[0]
    assert not gpu_parallel_bench.judge(one, answer("a"), 1.0)[0]


def test_a_near_tie_passes_only_within_a_tolerance():
    one = answer("b", [-0.5], [{"b": -0.5, "c": -0.51}])
    other = answer("c", [-0.5], [{"c": -0.5, "b": -0.52}])
    assert gpu_parallel_bench.judge(one, other, 0.1)[0]
    assert not gpu_parallel_bench.judge(one, other, 0.015)[0]
    assert not gpu_parallel_bench.judge(one, other, None)[0]


@pytest.mark.parametrize("words", [["--cuda-device", "3"], ["--cuda-device=3"]])
def test_ranks_that_share_a_gpu_all_get_the_first(tmp_path, words):
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "longhaul").write_text("")
    worker = programs / "longhaul-worker"
    worker.write_text(f"#!{sys.executable}\nimport json, sys\nprint(json.dumps(sys.argv[1:]))\n")
    worker.chmod(0o755)
    with shared_gpu.programs(programs) as own:
        assert (own / "longhaul").is_file() and not (own / "longhaul").is_symlink()
        assert (own / "longhaul-router").is_symlink()
        done = subprocess.run([own / "longhaul-worker", "rank", *words, "--model", "a folder", ""], check=True,
                              capture_output=True, text=True)
    given = json.loads(done.stdout)
    assert "=".join(given[1:-3]) == "--cuda-device=0"
    assert given[0] == "rank" and given[-3:] == ["--model", "a folder", ""]
    assert not own.exists()


def test_programs_that_are_not_there_are_named(tmp_path):
    with pytest.raises(SystemExit, match="no programs: .*longhaul"), shared_gpu.programs(tmp_path):
        pass
