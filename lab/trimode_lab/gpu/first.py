"""`make gpu-first`: what a GPU shows in a quarter of an hour, without a checkpoint.

What torch's attention does there, `tests/gpu`, cycles of a random 8B with their share of the data sheet's limits,
sampling, and attention at 1k to 32k tokens. Prints a table as it goes, writes everything to a JSON file, and ends by
itself at its limit. Without a GPU it runs a toy (`--toy`), which shows that it runs, and nothing else.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

from trimode_lab.gpu import measures
from trimode_lab.gpu.report import Report, Result
from trimode_lab.gpu.sizes import FULL, SMALL, random_network


@torch.inference_mode()
def measure(report: Report, *, toy: bool, tests: bool) -> None:
    """All sections, the cheapest and the most surprising first."""
    device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    size = SMALL if toy else FULL
    report.take("device", measures.device_facts(device))
    report.take("sdpa", measures.chosen_kernels(size, device))
    if tests:
        report.take("tests", measures.gpu_tests(report.left_s / 3))
    report.take("attention", measures.padded_attention(size, device))
    report.take("attention", measures.paged_attention(size, device))
    network = random_network(size.config, size.dtype, device)
    sections: dict[str, Iterator[Result]] = {
        "cycle": measures.forwards(network, size, device),
        "sampling": measures.sampling(network, size, device),
    }
    for name, results in sections.items():
        report.take(name, results)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("gpu-first.json"))
    parser.add_argument("--minutes", type=float, default=15.0, help="limit; what is not measured by then is named")
    parser.add_argument("--toy", action="store_true", help="a toy model: tries the script, measures nothing of use")
    parser.add_argument("--no-tests", action="store_true", help="leave tests/gpu out")
    args = parser.parse_args()
    if not (args.toy or torch.cuda.is_available()):
        sys.exit("gpu-first: no NVIDIA GPU here (torch.cuda.is_available() is False): nothing was measured")
    report = Report(args.out, 60 * args.minutes)
    report.end_at_limit()
    measure(report, toy=args.toy, tests=not args.no_tests)
    sys.stdout.write(f"{len(report.results)} results in {args.out}\n")


if __name__ == "__main__":
    main()
