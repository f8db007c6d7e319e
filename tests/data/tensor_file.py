"""Reads and writes safetensors files with NumPy alone.

A file is: the header's length in bytes as a little-endian u64; the header, JSON that maps a
tensor's name to {"dtype", "shape", "data_offsets": [begin, end] after the header}; the tensors,
little-endian and row-major.
"""

import json
import pathlib

import numpy as np

_DTYPES = {np.dtype(np.float32): "F32", np.dtype(np.int32): "I32"}


def load(path) -> dict[str, np.ndarray]:
    """Every tensor of a file: BF16 and F32 as float64 (exact), I32 as int32."""
    data = pathlib.Path(path).read_bytes()
    header_bytes = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + header_bytes])
    tensors = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        begin, end = (8 + header_bytes + offset for offset in entry["data_offsets"])
        raw = data[begin:end]
        if entry["dtype"] == "BF16":
            bits = np.frombuffer(raw, "<u2").astype(np.uint32) << np.uint32(16)
            tensor = bits.view(np.float32).astype(np.float64)
        elif entry["dtype"] == "F32":
            tensor = np.frombuffer(raw, "<f4").astype(np.float64)
        elif entry["dtype"] == "I32":
            tensor = np.frombuffer(raw, "<i4")
        else:
            raise ValueError(f"{path}: {name} has dtype {entry['dtype']}, needed is BF16, F32, I32")
        tensors[name] = tensor.reshape(entry["shape"])
    return tensors


def save(path, tensors: dict[str, np.ndarray]) -> int:
    """Writes fp32 and int32 tensors in the order given; returns the file's bytes."""
    header, offset = {}, 0
    for name, tensor in tensors.items():
        header[name] = {
            "dtype": _DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, offset + tensor.nbytes],
        }
        offset += tensor.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # so that the tensors are aligned
    data = len(text).to_bytes(8, "little") + text
    data += b"".join(np.ascontiguousarray(tensor).tobytes() for tensor in tensors.values())
    pathlib.Path(path).write_bytes(data)
    return len(data)
