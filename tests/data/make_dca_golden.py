"""Writes dca_attention.safetensors and dca_logits.safetensors, as dca_reference.py computes them.

Both hold outputs only; the inputs come from splitmix.py. Needs NumPy alone (the environment of
tests/requirements.txt) and two to three minutes on two cores.

dca_attention.safetensors: one attention call per case, at lengths around every boundary of small
settings.
    settings   I32 [5]            chunk_size, local_size, original_max (tokens), rope theta,
                                  query_scale
    cases      I32 [N, 8]         Hq, Hkv, D, length L, temperature (0 position, 1 request), seed,
                                  index of the case's first row in `rows`, number of its rows
    rows       I32 [R]            positions (query rows) whose outputs are stored, ascending within
                                  a case
    outputs    F32 [sum Hq * D]   for each entry of `rows` in order, its [Hq, D] output; a case
                                  begins at the sum of num_rows * Hq * D over those before it
    Inputs of a case, before rotation: q = query_scale * uniform(seed, [L, Hq, D]) (the scale is a
    power of two, so exact), k = uniform(seed + 1, [L, Hkv, D]), v = uniform(seed + 2, [L, Hkv, D]).
    Bound: max |a - b| / max |b| <= 1e-5 over a case.

dca_logits.safetensors: the whole demo model, at lengths around the boundaries of its own settings.
    cases      I32 [N, 3]         length L, temperature (0 position, 1 request), seed
    logits     F32 [N, 2048]      logits of the last token of the prompt token_ids(seed, L, 2040)
    The two temperatures of a length share its prompt; up to original_max (4096) tokens their rows
    are equal.
"""

import argparse
import pathlib

import numpy as np

import dca_reference
import splitmix
import tensor_file

_FOLDER = pathlib.Path(__file__).resolve().parent
_MODEL = _FOLDER.parent.parent / "models" / "demo"

_SETTINGS = dca_reference.DualChunk(chunk_size=1024, local_size=256, original_max=1024)
_THETA = 1_000_000
_QUERY_SCALE = 8  # makes the softmax peaked enough for a wrong distance to show
_SHAPES = ((2, 1, 64), (4, 2, 128))
_VOCABULARY = 2040  # ordinary tokens of the demo model


def boundary_lengths(dca: dca_reference.DualChunk) -> list[int]:
    """Lengths one below, at and one above every place where a rule changes, and a longer one."""
    s, w, c = dca.chunk_len, dca.local_size, dca.chunk_size
    places = (w, s, c, 2 * s, 2 * s + w)
    return [length for place in places for length in (place - 1, place, place + 1)] + [3 * s + 5]


def interesting_rows(length: int, dca: dca_reference.DualChunk) -> list[int]:
    """Positions below `length` around every boundary, the first and the last two."""
    rows = {0, 1, length - 2, length - 1}
    for segment in range(0, length, dca.chunk_len):
        for place in (segment, segment + dca.local_size):
            rows.update((place - 1, place, place + 1))
    return sorted(row for row in rows if 0 <= row < length)


def attention_cases() -> dict[str, np.ndarray]:
    cases, rows, outputs = [], [], []
    for shape_index, (num_heads, num_kv_heads, head_dim) in enumerate(_SHAPES):
        inv_freq = dca_reference.inverse_frequencies(_THETA, head_dim)
        for length in boundary_lengths(_SETTINGS):
            seed = 1_000_000 * (shape_index + 1) + 10 * length
            q = _QUERY_SCALE * splitmix.uniform(seed, (length, num_heads, head_dim))
            k = splitmix.uniform(seed + 1, (length, num_kv_heads, head_dim))
            v = splitmix.uniform(seed + 2, (length, num_kv_heads, head_dim))
            stored = interesting_rows(length, _SETTINGS)
            for mode, temperature in enumerate(dca_reference.TEMPERATURES):
                factors = dca_reference.query_factors(0, length, length, _SETTINGS, temperature)
                out = dca_reference.attention(q, k, v, 0, factors, _SETTINGS, inv_freq)
                cases.append(
                    (num_heads, num_kv_heads, head_dim, length, mode, seed, len(rows), len(stored))
                )
                rows.extend(stored)
                outputs.append(out[stored].reshape(-1))
    settings = (
        _SETTINGS.chunk_size,
        _SETTINGS.local_size,
        _SETTINGS.original_max,
        _THETA,
        _QUERY_SCALE,
    )
    return {
        "settings": np.array(settings, np.int32),
        "cases": np.array(cases, np.int32),
        "rows": np.array(rows, np.int32),
        "outputs": np.concatenate(outputs).astype(np.float32),
    }


def logits_cases(model: dca_reference.Qwen2) -> dict[str, np.ndarray]:
    cases, logits = [], []
    for length in boundary_lengths(model.dca):
        seed = 10 * length
        ids = splitmix.token_ids(seed, length, _VOCABULARY)
        for mode, temperature in enumerate(dca_reference.TEMPERATURES):
            cases.append((length, mode, seed))
            logits.append(model.logits(ids, temperature))
            print(f"dca_logits: {length} tokens, {temperature}", flush=True)
    return {"cases": np.array(cases, np.int32), "logits": np.array(logits).astype(np.float32)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=pathlib.Path, default=_FOLDER, help="folder to write to")
    args = parser.parse_args()
    for name, tensors in (
        ("dca_attention.safetensors", attention_cases()),
        ("dca_logits.safetensors", logits_cases(dca_reference.Qwen2(_MODEL))),
    ):
        size = tensor_file.save(args.out / name, tensors)
        print(f"{name}: {len(tensors['cases'])} cases, {size} bytes")


if __name__ == "__main__":
    main()
