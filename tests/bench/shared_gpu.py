"""Programs whose ranks all use the first GPU of a machine that has but one. Needs no packages."""

import contextlib
import pathlib
import shutil
import tempfile

# NCCL refuses two ranks on one GPU without it; NCCL before 2.30 refuses always.
ENVIRONMENT = {"NCCL_MULTI_RANK_GPU_ENABLE": "1"}

WORKER = """#!/bin/bash
# Ranks are given --cuda-device 0, 1, ...: here all of them have the first.
words=()
while [ $# -gt 0 ]; do
  case $1 in
    --cuda-device) words+=("$1" 0); shift 2 ;;
    --cuda-device=*) words+=(--cuda-device=0); shift ;;
    *) words+=("$1"); shift ;;
  esac
done
exec %s "${words[@]}"
"""


@contextlib.contextmanager
def programs(folder):
    """A folder for as long as `with` lasts: the programs of `folder`, with every rank on the first GPU.

    `longhaul` starts the programs beside its own file, so that one is a copy and longhaul-worker a script.
    """
    folder = pathlib.Path(folder).resolve()
    with tempfile.TemporaryDirectory(prefix="longhaul-shared-gpu-") as parent:
        own = pathlib.Path(parent) / "bin"
        own.mkdir()
        if (folder.parent / "lib").is_dir():  # of a release bundle, found relative to the program
            (own.parent / "lib").symlink_to(folder.parent / "lib")
        try:
            shutil.copy2(folder / "longhaul", own)
        except OSError as error:
            raise SystemExit(f"no programs: {error}") from error
        (own / "longhaul-router").symlink_to(folder / "longhaul-router")
        worker = own / "longhaul-worker"
        worker.write_text(WORKER % (folder / "longhaul-worker"))
        worker.chmod(0o755)
        yield own
