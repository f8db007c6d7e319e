#!/usr/bin/env python3
"""Prints the pass-key prompt of the Qwen2.5-1M announcement, about 20,000 tokens.

The text ends without a line break, ready to be a chat message. Needs Python 3 alone.
"""

import argparse
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "tests" / "testing"))

import pass_key  # noqa: E402  (found through the line above)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--key", default="28884", help="the pass key (default: %(default)s)")
    parser.add_argument(
        "--repeats",
        type=int,
        default=800,
        help="repeats of the filler, 24 tokens each (default: %(default)s)",
    )
    parser.add_argument(
        "--depth",
        type=float,
        default=0.0,
        help="share of the filler before the key, 0 to 1 (default: %(default)s)",
    )
    args = parser.parse_args()
    sys.stdout.write(pass_key.announcement(args.key, args.repeats, args.depth).text)


if __name__ == "__main__":
    main()
