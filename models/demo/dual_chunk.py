"""The demo model's forward pass in PyTorch, with plain RoPE or Dual Chunk Attention.

Takes the weights of a transformers Qwen2ForCausalLM. Distances, for r = position mod chunk_len and
chunk_len = chunk_size - local_size: r - r' within a segment of chunk_len positions,
min(r + chunk_len, chunk_size) - r' to the segment before, chunk_size - r' to older ones.
"""

import dataclasses
import math

import torch
import torch.nn.functional as F

# Rows of the feed-forward network computed at once on long prompts: bounds its memory.
_MLP_ROWS = 131_072
# Query rows of plain causal attention computed at once on long prompts.
_PLAIN_ROWS = 32_768


@dataclasses.dataclass(frozen=True)
class DualChunk:
    """Settings in tokens."""

    chunk_size: int
    local_size: int
    original_max: int

    @property
    def chunk_len(self) -> int:
        return self.chunk_size - self.local_size


class DualChunkQwen2:
    """Borrows a Qwen2ForCausalLM; gradients flow into its parameters."""

    def __init__(self, model):
        config = model.config
        self._model = model
        self.device = model.device
        self._heads, self._kv_heads = config.num_attention_heads, config.num_key_value_heads
        self._dim = config.head_dim
        theta = float(getattr(config, "rope_theta", None) or config.rope_parameters["rope_theta"])
        exponents = torch.arange(0, self._dim, 2, device=model.device).float() / self._dim
        self._inv_freq = 1.0 / theta**exponents

    def training_hidden(self, ids, dual_chunk: DualChunk | None, query_factor: float = 1.0):
        """Hidden states after the last norm, [B, L, E], of sequences [B, L]; None: plain RoPE."""
        positions = torch.arange(ids.shape[1], device=ids.device)
        return self._run(
            self._model.model.embed_tokens(ids),
            lambda q, k, v: self._training_attention(q * query_factor, k, v, positions, dual_chunk),
        )

    @torch.no_grad()
    def last_logits(
        self, ids, dual_chunk: DualChunk | None, temperature: str = "position", count: int = 64
    ):
        """Logits [min(count, T), V] of the last positions of one sequence [T] of any length.

        dual_chunk None: plain RoPE, without a temperature.
        """
        lengths = torch.arange(1, len(ids) + 1, device=ids.device, dtype=torch.float64)
        if temperature == "request":
            lengths.fill_(len(ids))
        if dual_chunk:
            factors = (
                (0.1 * torch.log(lengths / dual_chunk.original_max) + 1)
                .clamp(min=1)
                .square()
                .float()
            )
        hidden = self._run(
            self._model.model.embed_tokens(ids[None]),
            lambda q, k, v: (
                self._long_dual_chunk(
                    q[0] * factors[:, None, None].to(q.dtype), k[0], v[0], dual_chunk
                )
                if dual_chunk
                else self._long_plain(q[0], k[0], v[0])
            )[None],
        )
        return F.linear(hidden[0, -count:], self._model.lm_head.weight)

    def _run(self, x, attention):
        batch, length, _ = x.shape
        inner = self._model.model
        for layer in inner.layers:
            a = layer.self_attn
            h = layer.input_layernorm(x)
            q = a.q_proj(h).view(batch, length, self._heads, self._dim)
            k = a.k_proj(h).view(batch, length, self._kv_heads, self._dim)
            v = a.v_proj(h).view(batch, length, self._kv_heads, self._dim)
            x = x + a.o_proj(attention(q, k, v).reshape(batch, length, -1))
            tiles = x.split(_MLP_ROWS, dim=1)
            x = torch.cat([t + layer.mlp(layer.post_attention_layernorm(t)) for t in tiles], dim=1)
        return inner.norm(x)

    def _rotate(self, x, positions):
        """x [..., T, H, D] to positions [T]."""
        angle = positions.float()[:, None] * self._inv_freq
        angle = torch.cat([angle, angle], -1)[:, None]
        low, high = x[..., : self._dim // 2].float(), x[..., self._dim // 2 :].float()
        return (x.float() * angle.cos() + torch.cat([-high, low], -1) * angle.sin()).to(x.dtype)

    def _training_attention(self, q, k, v, positions, dual_chunk):
        """Differentiable; [B, L, H, D]. Dual Chunk Attention materialises the score matrix."""
        group = self._heads // self._kv_heads
        if dual_chunk is None:
            q, k = (
                self._rotate(q, positions).transpose(1, 2),
                self._rotate(k, positions).transpose(1, 2),
            )
            out = F.scaled_dot_product_attention(
                q, k, v.transpose(1, 2), is_causal=True, enable_gqa=True
            )
            return out.transpose(1, 2)
        s, c = dual_chunk.chunk_len, dual_chunk.chunk_size
        r, segment = positions % s, positions // s
        distance = segment[:, None] - segment[None]
        k = self._rotate(k, r).transpose(1, 2).repeat_interleave(group, 1).transpose(-1, -2)

        def scores(query_positions):
            return self._rotate(q, query_positions).transpose(1, 2) @ k

        logits = scores(r)
        logits = torch.where(distance == 1, scores((r + s).clamp(max=c)), logits)
        logits = torch.where(distance > 1, scores(torch.full_like(r, c)), logits)
        hidden = positions[:, None] < positions[None]
        logits = (logits.float() * self._dim**-0.5).masked_fill(hidden, float("-inf"))
        p = torch.softmax(logits, -1).to(v.dtype)
        return (p @ v.transpose(1, 2).repeat_interleave(group, 1)).transpose(1, 2)

    def _long_plain(self, q, k, v):
        """[T, H, D]; in tiles of query rows, each against the keys before and its own."""
        positions = torch.arange(len(q), device=q.device)
        q, k, v = (
            self._rotate(q, positions),
            self._repeat(self._rotate(k, positions)),
            self._repeat(v),
        )
        out = []
        for begin in range(0, len(q), _PLAIN_ROWS):
            tile = slice(begin, begin + _PLAIN_ROWS)
            parts = [self._flash(q[tile], k[tile], v[tile], causal=True)]
            if begin:
                parts.append(self._flash(q[tile], k[:begin], v[:begin], causal=False))
            out.append(_merge(parts, q.dtype))
        return torch.cat(out)

    def _long_dual_chunk(self, q, k, v, dual_chunk):
        """[T, H, D]; segment by segment, three attentions merged by their log-sum-exp."""
        s, c = dual_chunk.chunk_len, dual_chunk.chunk_size
        k = self._repeat(self._rotate(k, torch.arange(len(k), device=k.device) % s))
        v = self._repeat(v)
        out = []
        for begin in range(0, len(q), s):
            rows = q[begin : begin + s]
            own, before = slice(begin, begin + s), slice(begin - s, begin)
            r = torch.arange(len(rows), device=q.device)
            parts = [self._flash(self._rotate(rows, r), k[own], v[own], causal=True)]
            if begin >= s:
                parts.append(
                    self._flash(
                        self._rotate(rows, (r + s).clamp(max=c)), k[before], v[before], causal=False
                    )
                )
            if begin >= 2 * s:
                older = slice(0, begin - s)
                rotated = self._rotate(rows, torch.full_like(r, c))
                parts.append(self._flash(rotated, k[older], v[older], causal=False))
            out.append(_merge(parts, q.dtype))
        return torch.cat(out)

    def _repeat(self, x):
        return x.repeat_interleave(self._heads // self._kv_heads, 1)

    def _flash(self, q, k, v, causal: bool):
        """Output [T, H, D] and log-sum-exp [T, H], fp32."""
        q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))
        scale = 1.0 / math.sqrt(self._dim)
        if q.is_cuda:
            op = torch.ops.aten._scaled_dot_product_flash_attention
            out, lse = op(q, k, v, 0.0, causal, False, scale=scale)[:2]
        else:
            op = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
            out, lse = op(q, k, v, 0.0, causal, scale=scale)[:2]
        return out[0].transpose(0, 1).float(), lse[0].transpose(0, 1).float()


def _merge(parts, dtype):
    """One softmax over the concatenation of parts, from each part's output and log-sum-exp."""
    weights = torch.softmax(torch.stack([lse for _, lse in parts]), 0)
    return sum(out * weight[..., None] for weight, (out, _) in zip(weights, parts)).to(dtype)
