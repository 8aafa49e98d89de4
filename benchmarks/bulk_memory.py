"""Memory of `singleshot detect` over 10,000 images: flat, and under 700 MB.

python benchmarks/bulk_memory.py MODEL FOLDER [--images 10000] [--draw] [--json] [more options of detect]

The real command in a process of its own, over links to FOLDER's images in a temporary folder. After each 1,000 images
its resident memory, shared libraries included, is read; at the end the most that it ever was. With --draw it draws
pictures too.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import tell


def link(folder: Path, target: Path, count: int) -> None:
    """`count` links with names of their own, so that each is an image to the command."""
    suffixes = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
    files = sorted(path.resolve() for path in folder.rglob("*") if path.suffix.lower() in suffixes)
    if not files:
        sys.exit(f"{folder}: no image")
    for i in range(count):
        file = files[i % len(files)]
        (target / f"{i:07}{file.suffix}").symlink_to(file)


def memory_mb(pid: int) -> dict[str, float]:
    """VmRSS and VmHWM, the most so far, in MB."""
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return {name: int(fields[name].split()[0]) / 1024 for name in ("VmRSS", "VmHWM")}


def watch(command: list[str], every: int) -> tuple[list[float], float, int]:
    """Resident MB at every so many images, the most of all, and the number of images, by the command's own lines."""
    resident, most, done = [], 0.0, 0
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            found = re.match(r"(\d+) images, ", line)
            if found is None or "images/s" in line:
                continue
            done = int(found[1])
            if done % every == 0:
                now = memory_mb(process.pid)
                resident.append(round(now["VmRSS"], 1))
                most = now["VmHWM"]
    if process.returncode:
        sys.exit(f"{' '.join(command)}: exit code {process.returncode}")
    return resident, most, done


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--draw", action="store_true")
    parser.add_argument("--json", action="store_true")
    args, more = parser.parse_known_args()
    every = max(100, args.images // 10 // 100 * 100)  # the command prints every 100
    with tempfile.TemporaryDirectory() as folder:
        images = Path(folder) / "images"
        images.mkdir()
        link(args.folder, images, args.images)
        draw = "--draw" if args.draw else "--no-draw"
        command = [sys.executable, "-m", "singleshot", "detect", args.model, str(images), draw, *more]
        started = time.perf_counter()
        resident, most, _ = watch([*command, "--out", str(Path(folder) / "found")], every)
        seconds = time.perf_counter() - started
    tell(
        "memory of bulk detection",
        {
            "images": args.images,
            "images per second, start-up included": args.images / seconds,
            f"resident MB after each {every}": str(resident),
            "growth from the second to the last, MB (want 0)": resident[-1] - resident[min(1, len(resident) - 1)],
            "most ever, MB (want under 700)": most,
        },
    )


if __name__ == "__main__":
    main()
