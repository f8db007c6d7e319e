"""The number generator of the golden files, so that their inputs need not be stored.

`splitmix64(seed, count)` is splitmix64's sequence from `seed`. Element i (from 0) in C++:

    uint64_t z = seed + (i + 1) * 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    z = z ^ (z >> 31);

`uniform` makes a float in [-1, 1) of an element:   static_cast<float>(z >> 40) * 0x1p-23f - 1.0f
`token_ids` makes a token id below bound of it:     static_cast<int32_t>(z % bound)

The first values for seed 1, as a check of another implementation:
    z:        0x910A2DEC89025CC1, 0xBEEB8DA1658EEC67, 0xF893A2EEFB32555E
    uniform:  0.133123040, 0.491563439, 0.942005396
    z % 2040: 1625, 799, 510
"""

import numpy as np

_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


def splitmix64(seed: int, count: int) -> np.ndarray:
    """The first `count` elements, uint64."""
    z = np.uint64(seed) + np.arange(1, count + 1, dtype=np.uint64) * _GAMMA
    z = (z ^ (z >> np.uint64(30))) * _MIX_1
    z = (z ^ (z >> np.uint64(27))) * _MIX_2
    return z ^ (z >> np.uint64(31))


def uniform(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    """Floats in [-1, 1), fp32, row-major."""
    z = splitmix64(seed, int(np.prod(shape)))
    return ((z >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-23) - np.float32(1)).reshape(
        shape
    )


def token_ids(seed: int, count: int, bound: int) -> np.ndarray:
    """Token ids in [0, bound), int32."""
    return (splitmix64(seed, count) % np.uint64(bound)).astype(np.int32)
