"""Trains or evaluates the demo model, which retrieves from prompts far beyond its training length.

    python models/demo/train.py --out /tmp/demo            about 7 minutes on one H100-class GPU
    python models/demo/train.py --evaluate models/demo     accuracy by length and kind of prompt
    python models/demo/train.py --out /tmp/demo --smoke    a few steps, to check the script on a CPU

Training sees prompts of at most 4,096 tokens, in two phases. The first mixes plain RoPE with Dual
Chunk Attention whose chunk is a fraction of the prompt; the second adds random query temperatures.
Plain training alone copies by exact distance and reaches only half of the keys under Dual Chunk
Attention. Phases are bounded by time, so a run is repeatable in its data (the seeds) but not bit by
bit. Packages: tests/data/requirements.txt.
"""

import argparse
import dataclasses
import json
import math
import multiprocessing
import pathlib
import random
import shutil
import time

import numpy as np
import safetensors.torch
import tokenizers
import torch
import torch.nn.functional as F
import transformers

import dual_chunk
import prompts

_HERE = pathlib.Path(__file__).resolve().parent
_THETA = 1_000_000.0
_SETTINGS = dual_chunk.DualChunk(chunk_size=4096, local_size=1024, original_max=4096)
# Prompt lengths of the three stages of training and rows per batch; with Dual Chunk Attention,
# whose score matrix is materialised, fewer rows.
_BATCH_ROWS = {256: 256, 1024: 64, 4096: 16}
_DUAL_CHUNK_ROWS = {1024: 24, 4096: 4}
_QUEUED_BATCHES = 32
_SMOKE_STEPS = 5
_IGNORED = -100
_ANSWER_WEIGHT, _TEXT_WEIGHT = 1.0, 0.02


@dataclasses.dataclass(frozen=True)
class Phase:
    name: str
    seconds: float
    peak_rate: float
    stage_ends: tuple[float, float]  # share of the phase at which stages 0 and 1 end
    temperatures: bool  # random query temperatures with Dual Chunk Attention


@dataclasses.dataclass(frozen=True)
class Batch:
    ids: np.ndarray  # [B, L]
    targets: np.ndarray  # [B, L], _IGNORED where padded
    weights: (
        np.ndarray
    )  # [B, L], _ANSWER_WEIGHT on answers, _TEXT_WEIGHT on the rest, 0 where padded


def make_batch(maker: prompts.PromptMaker, length: int, rows: int, padding: int, rng) -> Batch:
    """One sample a row, padded at the end."""
    batch = Batch(
        np.full((rows, length), padding, np.int64),
        np.full((rows, length), _IGNORED, np.int64),
        np.zeros((rows, length), np.float32),
    )
    for row in range(rows):
        sample = maker.sample(length, rng)
        ids = np.concatenate([sample.prompt, sample.answer])[:length]
        batch.ids[row, : len(ids)] = ids
        batch.targets[row, : len(ids) - 1] = ids[1:]
        batch.weights[row, : len(ids) - 1] = _TEXT_WEIGHT
        batch.weights[row, len(sample.prompt) - 1 : len(ids) - 1] = _ANSWER_WEIGHT
    return batch


class BatchSource:
    """Batches made by forked processes, which never use the GPU and end with the `with`."""

    def __init__(self, maker, padding: int, seed: int, processes: int, capacity: int):
        context = multiprocessing.get_context("fork")
        self._stage = context.Value("i", 0)
        self._queue = context.Queue(capacity)
        self._processes = [
            context.Process(target=self._work, args=(maker, padding, seed + i), daemon=True)
            for i in range(processes)
        ]
        for process in self._processes:
            process.start()

    def next(self, stage: int) -> Batch:
        """The next batch; batches of an earlier stage that were made in advance come first."""
        self._stage.value = stage
        return self._queue.get(timeout=300)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self._processes:
            process.terminate()
            process.join()

    def _work(self, maker, padding, seed):
        rng = np.random.default_rng(seed)
        lengths = list(_BATCH_ROWS)
        while True:
            stage = self._stage.value
            length = lengths[1] if stage == 2 and rng.random() < 0.3 else lengths[stage]
            self._queue.put(make_batch(maker, length, _BATCH_ROWS[length], padding, rng))


def make_model(
    vocabulary: int, end_of_text: int, end_of_turn: int, device
) -> transformers.Qwen2ForCausalLM:
    config = transformers.Qwen2Config(
        vocab_size=vocabulary,
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=128,
        max_position_embeddings=_SETTINGS.original_max,
        rope_theta=_THETA,
        tie_word_embeddings=True,
        rms_norm_eps=1e-6,
        bos_token_id=end_of_text,
        eos_token_id=end_of_turn,
        use_sliding_window=False,
    )
    return transformers.Qwen2ForCausalLM(config).to(device).float()


def load_weights(model, directory: pathlib.Path):
    weights = {}
    for path in sorted(directory.glob("*.safetensors")):
        weights.update(safetensors.torch.load_file(path))
    missing, unexpected = model.load_state_dict(
        {k: v.float() for k, v in weights.items()}, strict=False
    )
    if unexpected or set(missing) - {"lm_head.weight"}:
        raise ValueError(f"{directory}: missing tensors {missing}, unexpected tensors {unexpected}")


def random_dual_chunk(length: int) -> dual_chunk.DualChunk:
    """Settings under which a prompt of this length has one to eight segments or a little more."""
    chunk_size = random.choice([length // 8, length // 4, length // 2, length * 3 // 4, length])
    local_size = max(16, chunk_size // random.choice([4, 8]))
    return dual_chunk.DualChunk(chunk_size, local_size, original_max=length)


def train_phase(model, source: BatchSource, phase: Phase, max_steps: int | None):
    """Trains until the phase's time is over or max_steps are done."""
    device = model.device
    forward = dual_chunk.DualChunkQwen2(model)
    optimizer = torch.optim.AdamW(
        model.parameters(), betas=(0.9, 0.98), weight_decay=0.01, fused=device.type == "cuda"
    )
    began, step = time.monotonic(), 0
    while True:
        elapsed = time.monotonic() - began
        done = step / max_steps if max_steps else elapsed / phase.seconds
        if done >= 1:
            return
        stage = sum(done >= end for end in phase.stage_ends)
        rate = phase.peak_rate * min(1, step / 200)
        if done >= 0.5:
            rate *= 0.5 * (1 + math.cos(math.pi * (done - 0.5) / 0.5)) + 0.02
        for group in optimizer.param_groups:
            group["lr"] = rate

        batch = source.next(stage)
        length = batch.ids.shape[1]
        rows, settings, factor = len(batch.ids), None, 1.0
        if stage >= 1 and length in _DUAL_CHUNK_ROWS and random.random() < 0.6:
            rows, settings = _DUAL_CHUNK_ROWS[length], random_dual_chunk(length)
            if phase.temperatures and random.random() < 0.7:
                factor = random.uniform(1.0, 2.6)
        ids, targets, weights = (
            torch.from_numpy(x[:rows]).to(device, non_blocking=True)
            for x in (batch.ids, batch.targets, batch.weights)
        )
        with torch.autocast(device.type, torch.bfloat16):
            hidden = forward.training_hidden(ids, settings, factor)
            answers = weights >= _ANSWER_WEIGHT
            logits = F.linear(hidden[answers], model.lm_head.weight).float()
            answer_loss = F.cross_entropy(logits, targets[answers])
            # A twentieth of the other positions is enough to keep the model a language model.
            some = (weights > 0) & (torch.rand(weights.shape, device=device) < 0.05)
            text_logits = F.linear(hidden[some], model.lm_head.weight).float()
            loss = answer_loss + 0.1 * F.cross_entropy(text_logits, targets[some])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
        if step % 100 == 0 or max_steps:
            right = (logits.argmax(-1) == targets[answers]).float().mean().item()
            print(
                f"{phase.name}: step {step}, {elapsed:.0f} s, {length} tokens, chunk "
                f"{settings.chunk_size if settings else '-'}, "
                f"answer loss {answer_loss.item():.4f}, answer tokens right {right:.4f}",
                flush=True,
            )


def save(model, tokenizer, directory: pathlib.Path):
    """Writes a Hugging Face directory: bf16 weights in two shards, tokenizer and configurations."""
    directory.mkdir(parents=True, exist_ok=True)
    state = {
        name: t.to(torch.bfloat16).contiguous().cpu() for name, t in model.state_dict().items()
    }
    state.pop("lm_head.weight")  # tied to the embedding
    names = list(state)
    shard_of = {}
    for number, part in enumerate((names[: len(names) // 2], names[len(names) // 2 :]), start=1):
        shard = f"model-{number:05d}-of-00002.safetensors"
        safetensors.torch.save_file(
            {name: state[name] for name in part}, directory / shard, metadata={"format": "pt"}
        )
        shard_of.update({name: shard for name in part})
    index = {
        "metadata": {"total_size": sum(t.numel() * 2 for t in state.values())},
        "weight_map": shard_of,
    }
    _write_json(directory / "model.safetensors.index.json", index)

    config = model.config
    kept = (
        "vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads "
        "num_key_value_heads head_dim rms_norm_eps tie_word_embeddings hidden_act "
        "use_sliding_window bos_token_id eos_token_id"
    ).split()
    written = {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "torch_dtype": "bfloat16",
    }
    written.update({name: getattr(config, name) for name in kept})
    written.update(max_position_embeddings=1_048_576, rope_theta=_THETA)
    written["dual_chunk_attention_config"] = {
        "chunk_size": _SETTINGS.chunk_size,
        "local_size": _SETTINGS.local_size,
        "original_max_position_embeddings": _SETTINGS.original_max,
    }
    _write_json(directory / "config.json", written)
    tokenizer.save(str(directory / "tokenizer.json"))
    for name in ("tokenizer_config.json", "generation_config.json"):
        if (_HERE / name) != (directory / name):
            shutil.copy(_HERE / name, directory / name)


def _write_json(path: pathlib.Path, value):
    path.write_text(json.dumps(value, indent=1) + "\n")


def share_right(forward, maker, length, count, settings, temperature, kind, num_needles) -> float:
    """The share of prompts, needles at evenly spread depths, whose whole greedy answer is right."""
    rng = np.random.default_rng(7)
    right = 0
    for i in range(count):
        sample = maker.sample(length, rng, kind, num_needles, depth=(i + 0.5) / count)
        ids = (
            torch.from_numpy(np.concatenate([sample.prompt, sample.answer]))
            .long()
            .to(forward.device)
        )
        # Greedy decoding gives the answer exactly if each of its tokens is the first choice after
        # those before it.
        logits = forward.last_logits(ids, settings, temperature)
        size = len(sample.answer)
        right += bool((logits[-size - 1 : -1].argmax(-1) == ids[-size:]).all())
    return right / count


def evaluate(model, maker, lengths: list[int], count: int, temperature: str):
    """Prints one row of shares per length. fp32 on the CPU, bf16 on a GPU."""
    model = model.to(torch.bfloat16 if model.device.type == "cuda" else torch.float32).eval()
    forward = dual_chunk.DualChunkQwen2(model)
    columns = (
        ("pass key, plain RoPE", None, "pass", 1),
        ("pass key, DCA", _SETTINGS, "pass", 1),
        ("one magic number, DCA", _SETTINGS, "numbers", 1),
        ("four magic numbers, DCA", _SETTINGS, "numbers", 4),
    )
    print("| prompt tokens |", " | ".join(name for name, *_ in columns), "|")
    print("|---" * (len(columns) + 1) + "|")
    for length in lengths:
        shares = [
            share_right(forward, maker, length, count, settings, temperature, kind, needles)
            for _, settings, kind, needles in columns
        ]
        print(f"| {length:,} |", " | ".join(f"{x:.2f}" for x in shares), "|", flush=True)


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--out", type=pathlib.Path, help="train, and write the model to this folder")
    what.add_argument(
        "--evaluate", type=pathlib.Path, metavar="DIR", help="evaluate the model in this folder"
    )
    parser.add_argument("--smoke", action="store_true", help="a few small steps, on any machine")
    parser.add_argument(
        "--seconds", type=float, default=270, help="first phase (default: %(default)s)"
    )
    parser.add_argument(
        "--refine-seconds", type=float, default=130, help="second phase (default: %(default)s)"
    )
    parser.add_argument(
        "--init", type=pathlib.Path, metavar="DIR", help="start from this model, second phase only"
    )
    parser.add_argument(
        "--train-tokenizer", action="store_true", help="make a new tokenizer; default: the one here"
    )
    parser.add_argument(
        "--processes", type=int, default=10, help="data processes (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--lengths", default="4096,16384", help="tokens, for the evaluation (default: %(default)s)"
    )
    parser.add_argument(
        "--prompts", type=int, default=40, help="prompts a cell (default: %(default)s)"
    )
    parser.add_argument("--temperature", choices=("position", "request"), default="position")
    return parser.parse_args()


def main():
    args = parse_arguments()
    torch.manual_seed(args.seed)
    random.seed(args.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if args.out and device.type == "cpu" and not args.smoke:
        raise SystemExit("training needs a CUDA GPU; --smoke runs a few steps without one")

    words = (_HERE / "words.txt").read_text().split()
    texts = prompts.documentation_text()
    directory = args.evaluate or args.init or _HERE
    if args.train_tokenizer:
        tokenizer = prompts.train_tokenizer(texts, words)
    else:
        tokenizer = tokenizers.Tokenizer.from_file(str(directory / "tokenizer.json"))
    maker = prompts.PromptMaker(tokenizer, texts, words, args.seed)
    end_of_text = tokenizer.token_to_id(prompts.END_OF_TEXT)
    end_of_turn = tokenizer.token_to_id(prompts.TURN_END)
    vocabulary = (tokenizer.get_vocab_size() + 63) // 64 * 64

    if args.evaluate:
        model = make_model(vocabulary, end_of_text, end_of_turn, device)
        load_weights(model, args.evaluate)
    else:
        if args.smoke:
            # Small enough for a CPU: the stages' lengths, one row each.
            for rows in (_BATCH_ROWS, _DUAL_CHUNK_ROWS):
                rows.update(dict.fromkeys(rows, 1))
        # The data processes fork before anything touches the GPU.
        processes, capacity = (1, 1) if args.smoke else (args.processes, _QUEUED_BATCHES)
        with BatchSource(maker, end_of_text, 1000 * args.seed, processes, capacity) as source:
            model = make_model(vocabulary, end_of_text, end_of_turn, device)
            phases = [Phase("train", args.seconds, 1e-3, (0.1, 0.35), temperatures=False)]
            if args.init:
                load_weights(model, args.init)
                phases.clear()
            phases.append(Phase("refine", args.refine_seconds, 6e-4, (0, 0), temperatures=True))
            for phase in phases:
                train_phase(model, source, phase, max_steps=_SMOKE_STEPS if args.smoke else None)
        save(model, tokenizer, args.out)
    if not args.smoke:
        lengths = [int(length) for length in args.lengths.split(",")]
        evaluate(model, maker, lengths, args.prompts, args.temperature)


if __name__ == "__main__":
    main()
