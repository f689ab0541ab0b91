"""Our RTN, AWQ and GPTQ beside llm-compressor's: CPU seconds and perplexity on the same tokens.

    python benchmarks/llm_compressor.py --make-peer build/peer        # once; its own environment
    python benchmarks/llm_compressor.py --peer-python build/peer/bin/python
    python benchmarks/llm_compressor.py --peer-python … --bits 3 --methods rtn awq

Both sides get the same model (float32 here; bfloat16 there, as its examples do), the same calibration
windows and one thread, each in a process of its own. Seconds are CPU seconds of the quantisation
alone, without start, loading and saving, because wall time on a shared machine says little. Both
checkpoints are then read by the same loader and measured by the same perplexity.

llm-compressor pins an older transformers, hence the second environment. Its AWQ calls
`Tensor.pin_memory`, which fails without an accelerator; that call is made a no-op there.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

PEER = ["torch==2.13.0", "transformers<=5.17", "llmcompressor==0.14.0.1"]
METHODS = ("rtn", "awq", "gptq", "awq+gptq")


def main() -> None:
    """Parse the command line; run one side (`--worker`) or the comparison."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0], formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--make-peer", type=Path, metavar="DIR", help="create the peer environment")
    parser.add_argument("--peer-python", type=Path, help="its interpreter; without it, only ours")
    parser.add_argument(
        "--model", type=Path, help="model directory; default: the built smollm2-135m"
    )
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--calibration", default="wikipedia.train")
    parser.add_argument("--eval", nargs="+", default=["wikipedia.test", "moby-dick.test"])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=["rtn", "awq", "gptq"])
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--group-size", type=int, default=64)
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--windows", type=int, default=16)
    parser.add_argument(
        "--params",
        default="{}",
        help='JSON, parameters of ours by method: \'{"gptq": {"range": "output"}}\'',
    )
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    parser.add_argument("--worker", choices=("ours", "peer"), help=argparse.SUPPRESS)
    parser.add_argument("--job", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        job = json.loads(options.job.read_text())
        print(json.dumps({"ours": ours, "peer": peer}[options.worker](job)))
    elif options.make_peer:
        make_peer(options.make_peer)
    else:
        compare(options)


def make_peer(directory: Path) -> None:
    """A virtual environment with llm-compressor."""
    venv.create(directory, with_pip=True)
    subprocess.run([directory / "bin/python", "-m", "pip", "install", *PEER], check=True)
    print(f"\nnow: python {sys.argv[0]} --peer-python {directory}/bin/python")


# --- the two sides -------------------------------------------------------------------------------


def measured(work) -> dict:
    """CPU and wall seconds of `work()`, and the process's peak memory."""
    cpu, wall = time.process_time(), time.perf_counter()
    work()
    return {
        "cpu": time.process_time() - cpu,
        "wall": time.perf_counter() - wall,
        "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def ours(job: dict) -> dict:
    """Quantise with this package."""
    import torch

    from methods.data.loading import load
    from methods.models import language
    from methods.run.context import Context
    from methods.study.registry import find

    torch.set_num_threads(1)
    model = language.load(Path(job["model"]))
    text = load(job["calibration"], Path(job["data"]))
    amount = {"tokens": job["samples"] * job["length"], "length": job["length"]}
    object.__setattr__(text, "options", amount)
    grid = {"bits": job["bits"], "group_size": job["group_size"]}
    names = job["method"].split("+")
    steps = []
    for index, name in enumerate(names):
        last = index == len(names) - 1
        extra = job["params"].get(name, {})
        entry = find("method", name)
        params = entry.params(**grid, **extra, **({} if last else {"quantize": False}))
        steps.append((entry.load(), params))

    def work() -> None:
        nonlocal model
        for apply, params in steps:
            model = apply(model, {"calibration": [text]}, params, Context())

    found = measured(work)
    model.save(Path(job["out"]))
    return found


def peer(job: dict) -> dict:
    """Quantise with llm-compressor; runs in its environment and imports nothing of ours."""
    import contextlib

    import torch
    from datasets import Dataset
    from llmcompressor import oneshot
    from llmcompressor.modifiers.quantization import GPTQModifier, QuantizationModifier
    from llmcompressor.modifiers.transform.awq import AWQModifier
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(1)
    torch.Tensor.pin_memory = lambda self, *_, **__: self
    model = AutoModelForCausalLM.from_pretrained(job["model"], dtype=torch.bfloat16)
    tokenizer = AutoTokenizer.from_pretrained(job["model"])
    tokens = load_file(job["tokens"])["windows"].tolist()
    rows = {"input_ids": tokens, "attention_mask": [[1] * len(row) for row in tokens]}
    weights = {
        "num_bits": job["bits"],
        "type": "int",
        "symmetric": False,
        "strategy": "group",
        "group_size": job["group_size"],
    }
    groups = {"group_0": {"targets": ["Linear"], "weights": weights}}
    names = job["method"].split("+")
    recipe = [AWQModifier(duo_scaling=True, n_grid=20)] if "awq" in names else []
    last = GPTQModifier if "gptq" in names else QuantizationModifier
    recipe.append(last(config_groups=groups, ignore=["lm_head"]))
    calibrated = {"dataset": Dataset.from_dict(rows), "num_calibration_samples": len(tokens)}
    calibrated["max_seq_length"] = job["length"]

    def work() -> None:
        with contextlib.redirect_stdout(sys.stderr):
            oneshot(model=model, recipe=recipe, **({} if names == ["rtn"] else calibrated))

    found = measured(work)
    model.save_pretrained(job["out"], save_compressed=True)
    tokenizer.save_pretrained(job["out"])
    return found


# --- the comparison ------------------------------------------------------------------------------


def compare(options: argparse.Namespace) -> None:
    """Run every method on both sides and print one table."""
    model = options.model or built_model()
    with tempfile.TemporaryDirectory() as scratch:
        job = {key: str(getattr(options, key)) for key in ("data", "calibration")}
        job |= {key: getattr(options, key) for key in ("bits", "group_size", "samples", "length")}
        job |= {"model": str(model), "params": json.loads(options.params)}
        job["tokens"] = str(Path(scratch) / "tokens.safetensors")
        write_tokens(job)
        rows = [{"side": "dense", "method": "", **perplexities(model, options)}]
        show(rows[-1], options, rows[0])
        sides = {"ours": sys.executable}
        if options.peer_python:
            sides["peer"] = str(options.peer_python)
        for method in options.methods:
            for side, python in sides.items():
                out = Path(scratch) / f"{side}-{method}"
                found = run(side, python, {**job, "method": method, "out": str(out)}, scratch)
                rows.append({"side": side, "method": method, **found, **perplexities(out, options)})
                show(rows[-1], options, rows[0])
    ratios(rows, options)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


def built_model() -> Path:
    """The newest smollm2-135m that a study has built."""
    found = sorted(
        Path("results/runs/base").glob("smollm2-135m-*"), key=lambda path: path.stat().st_mtime
    )
    if not found:
        sys.exit("build the model first (any study on smollm2-135m does) or name one with --model")
    return found[-1]


def write_tokens(job: dict) -> None:
    """The calibration windows that our methods draw with seed 0, for the peer."""
    from safetensors.torch import save_file

    from methods.data.loading import load
    from methods.models import language
    from methods.quantize.calibration import calibration_windows
    from methods.run.context import Context

    text = load(job["calibration"], Path(job["data"]))
    amount = {"tokens": job["samples"] * job["length"], "length": job["length"]}
    object.__setattr__(text, "options", amount)
    tokenizer = language.load(Path(job["model"])).tokenizer
    windows = calibration_windows({"calibration": [text]}, tokenizer, Context())
    save_file({"windows": windows.contiguous()}, job["tokens"])


def run(side: str, python: str, job: dict, scratch: str) -> dict:
    """One side in a process of its own, one thread."""
    path = Path(scratch) / "job.json"
    path.write_text(json.dumps(job))
    root = str(Path(__file__).resolve().parents[1])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": root, "HF_HUB_OFFLINE": "1"}
    command = [python, __file__, "--worker", side, "--job", str(path)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(f"{side} {job['method']} failed; its last words are above")
    return json.loads(done.stdout.strip().splitlines()[-1])


def perplexities(directory: Path, options: argparse.Namespace) -> dict:
    """Perplexity and negative log-likelihood on every evaluation text, by our own measure."""
    from methods.data.loading import load
    from methods.measure.params import Perplexity
    from methods.measure.perplexity import measure
    from methods.models import language
    from methods.run.context import Context

    texts = [load(name, options.data) for name in options.eval]
    params = Perplexity(window=options.length, windows=options.windows)
    metrics = measure(language.load(directory), {"eval": texts}, params, Context(label="measure"))
    return {name: metric.value for name, metric in metrics.items()}


def show(row: dict, options: argparse.Namespace, dense: dict) -> None:
    """One line while the work goes on."""
    parts = [f"{row['side']:>5} {row['method']:<8}"]
    for name in options.eval:
        more = row[f"nll/{name}"] - dense[f"nll/{name}"]
        parts.append(f"{name} {row[f'perplexity/{name}']:7.2f} ({more:+.3f} nats)")
    if "cpu" in row:
        parts.append(f"{row['cpu']:6.0f} CPU s {row['memory']:6.0f} MiB")
    print("  ".join(parts), flush=True)


def ratios(rows: list[dict], options: argparse.Namespace) -> None:
    """Ours over theirs, per method."""
    found = {(row["side"], row["method"]): row for row in rows}
    heads = ["method", "CPU seconds", *(f"perplexity {name}" for name in options.eval)]
    print("\nours / llm-compressor\n| " + " | ".join(heads) + " |\n|" + "---|" * len(heads))
    for method in options.methods:
        a, b = found["ours", method], found.get(("peer", method))
        if b:
            cells = [f"{a['cpu'] / b['cpu']:.2f}"]
            for name in options.eval:
                cells.append(f"{a[f'perplexity/{name}'] / b[f'perplexity/{name}']:.4f}")
            print(f"| {method} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    from methods.study.errors import RetrofitError

    try:
        main()
    except RetrofitError as error:
        sys.exit(f"error: {error}")
