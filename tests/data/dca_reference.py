"""Qwen2 with Dual Chunk Attention (DCA) in plain NumPy: the oracle of the model tests.

Written from the formulas and from no other implementation. Weights, activations, scores and sums
are float64; nothing is merged by log-sum-exp: a query's scores against all its keys form one row,
and that row has one softmax.

For absolute position p (from 0), c = chunk_size, w = local_size, s = chunk_len = c - w:
    segment of p    p // s
    r               p mod s
    a key           is rotated to r
    a query         is rotated to   r               against keys of its own segment (causal)
                                    min(r + s, c)   against keys of the segment before
                                    c               against keys of all older segments
    temperature     the query is multiplied by f^2
      position      f(p) = max(1, 0.1 ln((p + 1) / original_max) + 1)
      request       f of the prompt's length for every row of the prompt; a generated row uses the
                    length up to and including itself, p + 1
    scale           1 / sqrt(D)
    inv_freq        fp32(1) / fp32(theta ^ (2 i / D)), each step rounded to fp32, i in [0, D / 2)
    angle           fp32(p) * fp32(inv_freq[i]), rounded to fp32; its cosine and sine are then
                    taken in float64
    rotation        halves (i, i + D / 2), as Hugging Face's Qwen2

Within chunk_size + 1 tokens every distance is exact, so up to original_max tokens the result is
plain RoPE's.

As a program it prints the greedy answer to a prompt:
    dca_reference.py MODEL_DIR --ids 2041,62,... --temperature position --tokens 16
"""

import argparse
import dataclasses
import json
import math
import pathlib

import numpy as np

import tensor_file

TEMPERATURES = ("position", "request")
# Query rows handled at once: bounds the score matrix to this many rows of all keys.
_ROWS = 512


@dataclasses.dataclass(frozen=True)
class DualChunk:
    """The settings of Dual Chunk Attention, in tokens."""

    chunk_size: int
    local_size: int
    original_max: int

    @property
    def chunk_len(self) -> int:
        return self.chunk_size - self.local_size


# Segments too long to be filled and no temperature: plain RoPE.
PLAIN_ROPE = DualChunk(chunk_size=1 << 40, local_size=0, original_max=1 << 40)


def inverse_frequencies(theta: float, head_dim: int) -> np.ndarray:
    """[D / 2] fp32."""
    power = np.power(np.float64(theta), np.arange(0, head_dim, 2) / head_dim).astype(np.float32)
    return np.float32(1) / power


def rotate(x: np.ndarray, positions: np.ndarray, inv_freq: np.ndarray) -> np.ndarray:
    """Rotates x [T, H, D] (float64) to positions [T]."""
    angle = positions.astype(np.float32)[:, None] * inv_freq[None, :]
    angle = angle.astype(np.float64)[:, None, :]
    cos, sin = np.cos(angle), np.sin(angle)
    half = x.shape[-1] // 2
    low, high = x[..., :half], x[..., half:]
    return np.concatenate([low * cos - high * sin, high * cos + low * sin], axis=-1)


def temperature_factor(lengths: np.ndarray, original_max: int) -> np.ndarray:
    """f of a length, elementwise, float64; the query is multiplied by its square."""
    return np.maximum(1.0, 0.1 * np.log(np.asarray(lengths, np.float64) / original_max) + 1.0)


def query_factors(
    begin: int, end: int, prompt_tokens: int, dca: DualChunk, temperature: str
) -> np.ndarray:
    """f for the queries at positions [begin, end) after a prompt of prompt_tokens tokens."""
    if temperature not in TEMPERATURES:
        raise ValueError(f"temperature is {temperature!r}, one of {TEMPERATURES} is needed")
    lengths = np.arange(begin, end) + 1
    if temperature == "request":
        lengths = np.maximum(lengths, prompt_tokens)
    return temperature_factor(lengths, dca.original_max)


def attention(q, k, v, begin: int, factors, dca: DualChunk, inv_freq) -> np.ndarray:
    """Causal attention of the queries at [begin, begin + Tq) over the keys at [0, begin + Tq).

    q [Tq, Hq, D], k and v [begin + Tq, Hkv, D]: before rotation, any float type. factors [Tq].
    Returns [Tq, Hq, D] float64.
    """
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    num_queries, num_heads, head_dim = q.shape
    group = num_heads // k.shape[1]
    if k.shape[0] != begin + num_queries or k.shape != v.shape or num_heads % k.shape[1]:
        raise ValueError(f"shapes do not fit: q {q.shape}, k {k.shape}, v {v.shape}, begin {begin}")
    s, c = dca.chunk_len, dca.chunk_size
    q = q * (np.square(np.asarray(factors, np.float64)) / math.sqrt(head_dim))[:, None, None]
    keys = np.ascontiguousarray(
        rotate(k, np.arange(k.shape[0]) % s, inv_freq).transpose(1, 2, 0)
    )  # [Hkv, D, Lk]
    values = np.ascontiguousarray(v.transpose(1, 0, 2))  # [Hkv, Lk, D]
    out = np.empty_like(q)
    row = begin
    while row < begin + num_queries:
        segment = row // s * s  # first position of the rows' segment
        row_end = min(row + _ROWS, segment + s, begin + num_queries)
        positions = np.arange(row, row_end)
        x = q[row - begin : row_end - begin]
        r = positions - segment
        rotated = (
            rotate(x, np.full_like(r, c), inv_freq) if segment >= 2 * s else None,
            rotate(x, np.minimum(r + s, c), inv_freq) if segment >= s else None,
            rotate(x, r, inv_freq),
        )
        regions = ((0, max(segment - s, 0)), (max(segment - s, 0), segment), (segment, row_end))
        hidden = np.arange(segment, row_end)[None, :] > positions[:, None]
        for h in range(num_heads):
            parts = [
                variant[:, h] @ keys[h // group, :, key_begin:key_end]
                for variant, (key_begin, key_end) in zip(rotated, regions)
                if key_begin < key_end
            ]
            parts[-1][hidden] = -np.inf
            scores = np.concatenate(parts, axis=1)
            scores -= scores.max(axis=1, keepdims=True)
            np.exp(scores, out=scores)
            scores /= scores.sum(axis=1, keepdims=True)
            out[row - begin : row_end - begin, h] = scores @ values[h // group, :row_end]
        row = row_end
    return out


class Qwen2:
    """A Qwen2ForCausalLM read from a Hugging Face directory; tied or untied embeddings."""

    def __init__(self, directory):
        directory = pathlib.Path(directory)
        config = json.loads((directory / "config.json").read_text())
        self.config = config
        self.num_heads = config["num_attention_heads"]
        self.num_kv_heads = config["num_key_value_heads"]
        self.head_dim = config.get("head_dim") or config["hidden_size"] // self.num_heads
        self.eps = config["rms_norm_eps"]
        self.inv_freq = inverse_frequencies(config["rope_theta"], self.head_dim)
        settings = config["dual_chunk_attention_config"]
        self.dca = DualChunk(
            settings["chunk_size"],
            settings["local_size"],
            settings["original_max_position_embeddings"],
        )
        self.weights = {}
        for path in sorted(directory.glob("*.safetensors")):
            self.weights.update(tensor_file.load(path))
        self.embedding = self.weights["model.embed_tokens.weight"]
        self.head = (
            self.embedding if config["tie_word_embeddings"] else self.weights["lm_head.weight"]
        )

    def _norm(self, x, name):
        return (
            x
            / np.sqrt(np.mean(np.square(x), axis=-1, keepdims=True) + self.eps)
            * self.weights[name]
        )

    def _project(self, x, name):
        y = x @ self.weights[name + ".weight"].T
        bias = self.weights.get(name + ".bias")
        return y if bias is None else y + bias

    def forward(self, ids, prompt_tokens=None, cache=None, temperature="position", dca=None):
        """Hidden states after the last norm, [T, E], of the tokens `ids` after those in `cache`.

        cache: num_layers pairs (k, v) before rotation, replaced in place; None: an own, empty one.
        prompt_tokens: length of the prompt, by default all tokens up to and including `ids`.
        """
        dca = dca or self.dca
        cache = cache if cache is not None else self.empty_cache()
        begin = cache[0][0].shape[0]
        num_tokens = len(ids)
        prompt_tokens = begin + num_tokens if prompt_tokens is None else prompt_tokens
        factors = query_factors(begin, begin + num_tokens, prompt_tokens, dca, temperature)
        x = self.embedding[np.asarray(ids)]
        for layer in range(self.config["num_hidden_layers"]):
            name = f"model.layers.{layer}."
            h = self._norm(x, name + "input_layernorm.weight")
            q = self._project(h, name + "self_attn.q_proj").reshape(num_tokens, self.num_heads, -1)
            k = self._project(h, name + "self_attn.k_proj").reshape(
                num_tokens, self.num_kv_heads, -1
            )
            v = self._project(h, name + "self_attn.v_proj").reshape(
                num_tokens, self.num_kv_heads, -1
            )
            k = np.concatenate([cache[layer][0], k])
            v = np.concatenate([cache[layer][1], v])
            cache[layer] = (k, v)
            a = attention(q, k, v, begin, factors, dca, self.inv_freq)
            x = x + self._project(a.reshape(num_tokens, -1), name + "self_attn.o_proj")
            h = self._norm(x, name + "post_attention_layernorm.weight")
            gate = self._project(h, name + "mlp.gate_proj")
            gate = gate / (1 + np.exp(-gate)) * self._project(h, name + "mlp.up_proj")
            x = x + self._project(gate, name + "mlp.down_proj")
        return self._norm(x, "model.norm.weight")

    def empty_cache(self):
        empty = np.zeros((0, self.num_kv_heads, self.head_dim))
        return [(empty, empty)] * self.config["num_hidden_layers"]

    def logits(self, ids, temperature="position", dca=None) -> np.ndarray:
        """Logits of the last token of a prompt, [V] float64."""
        return self.head @ self.forward(ids, temperature=temperature, dca=dca)[-1]

    def greedy(self, ids, num_tokens, temperature="position", dca=None, stop=()) -> list[int]:
        """The next tokens, at most num_tokens; ends after one of `stop`, which is included."""
        cache = self.empty_cache()
        x = self.forward(ids, len(ids), cache, temperature, dca)
        tokens = []
        while True:
            tokens.append(int(np.argmax(self.head @ x[-1])))
            if len(tokens) == num_tokens or tokens[-1] in stop:
                return tokens
            x = self.forward(tokens[-1:], len(ids), cache, temperature, dca)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", help="directory of the model")
    parser.add_argument("--ids", required=True, help="the prompt's token ids, separated by commas")
    parser.add_argument("--temperature", choices=TEMPERATURES, default="position")
    parser.add_argument("--tokens", type=int, default=16, help="tokens to generate")
    args = parser.parse_args()
    ids = [int(token) for token in args.ids.split(",")]
    print(*Qwen2(args.model).greedy(ids, args.tokens, args.temperature), sep=",")


if __name__ == "__main__":
    main()
