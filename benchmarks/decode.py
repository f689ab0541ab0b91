"""Decoding after long contexts: a linearised model beside the dense one with its KV cache.

    python benchmarks/decode.py                       # SmolLM2-135M, contexts 512 to 32768, two threads

Each (model, context) is a process of its own, so that resident memory is its own. The linearised model
reads its whole context in chunks; the dense one gets a cache of random keys and values of that
length, since reading 32 768 tokens would take it a quarter of an hour and time does not depend on what
the cache holds. Weights of the linearised model are the base's, untrained: time does not depend on
them either.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

CHUNK = 1024


def main() -> None:
    """Measure every pair, and print a Markdown table with ratios to the dense model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--model", default="results/runs/base", help="model directory, or where base runs are"
    )
    parser.add_argument("--contexts", type=int, nargs="+", default=[512, 2048, 8192, 32768])
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        kind, context = arguments.one
        print(json.dumps(measure(kind, int(context), arguments)))
        return
    rows = {}
    for context in arguments.contexts:
        for kind in KINDS:
            command = [sys.executable, __file__, *sys.argv[1:], "--one", kind, str(context)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            rows[kind, context] = json.loads(done.stdout.splitlines()[-1])
            print(f"{kind} {context}: {rows[kind, context]}", file=sys.stderr)
    print(
        "| context | "
        + " | ".join(f"{kind}: ms, MB" for kind in KINDS)
        + " | dense / liger, dense / own step |"
    )
    print("|--:" * (len(KINDS) + 2) + "|")
    for context in arguments.contexts:
        cells = [f"{r['ms']:.0f}, {r['rss']:.0f}" for r in (rows[kind, context] for kind in KINDS)]
        dense = rows["dense", context]["ms"]
        ratios = [dense / rows[kind, context]["ms"] for kind in ("liger", "liger, own step")]
        print(f"| {context} | " + " | ".join(cells) + " | {:.2f}, {:.2f} |".format(*ratios))


KINDS = {
    "dense": None,
    "liger": {},
    "window and sinks": {"alpha": 0.0, "beta": 1.0, "sinks": 4},
    "liger, own step": {},
}
"""What is measured: the base, or how its attention is linearised."""


def measure(kind: str, context: int, arguments: argparse.Namespace) -> dict[str, float]:
    """Median milliseconds of a token and resident megabytes after decoding."""
    import psutil
    import torch
    from transformers.cache_utils import DynamicCache

    from methods.linearize.conversion import linearized
    from methods.linearize.decoding import fast_step
    from methods.models import language

    torch.set_num_threads(arguments.threads)
    path = Path(arguments.model)
    if not (path / "config.json").exists():
        path = next(iter(sorted(path.glob("smollm2-135m-*"))))
    model = language.load(path).model
    if KINDS[kind] is not None:
        model = linearized(model, 0, **KINDS[kind])
    config = model.config
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(config.vocab_size, (1, context + arguments.tokens), generator=generator)
    if kind == "liger, own step":
        decoder, _ = fast_step(model, tokens[:, :context])
        times = []
        for step in range(arguments.tokens):
            began = time.perf_counter()
            decoder.step(int(tokens[0, context + step]))
            times.append(1000 * (time.perf_counter() - began))
        return {"ms": statistics.median(times[2:]), "rss": psutil.Process().memory_info().rss / 1e6}
    with torch.inference_mode():
        cache = DynamicCache(config=config)
        if kind == "dense":
            shape = (1, config.num_key_value_heads, context, config.head_dim)
            for layer in range(config.num_hidden_layers):
                cache.update(torch.randn(shape), torch.randn(shape), layer)
        else:
            for start in range(0, context, CHUNK):
                part = tokens[:, start : min(start + CHUNK, context)]
                model(part, past_key_values=cache, use_cache=True, logits_to_keep=1)
        times = []
        for step in range(arguments.tokens):
            began = time.perf_counter()
            one = tokens[:, context + step : context + step + 1]
            model(one, past_key_values=cache, use_cache=True)
            times.append(1000 * (time.perf_counter() - began))
    return {
        "ms": statistics.median(times[2:]),
        "rss": psutil.Process().memory_info().rss / 1e6,
    }


if __name__ == "__main__":
    main()
