"""One run: read its specification, load what is upstream, do the work, put the artifact in place."""

from __future__ import annotations

import importlib
import json
import logging
import sys
from pathlib import Path
from typing import Any

from methods.run import artifact, metrics
from methods.run.checkpoint import Checkpoint
from methods.run.context import Context
from methods.run.device import slot
from methods.run.provenance import Stopwatch, environment
from methods.study.errors import RetrofitError
from methods.study.registry import find
from methods.study.specification import DataRef
from methods.verbs.planning import read_spec

DATA = Path("data")


def execute(name: str, kind: str, results: Path, work: Path, data: Path = DATA) -> Path:
    """Make the run `name` unless it is there; its directory.  Raises RetrofitError, keeping nothing."""
    spec = read_spec(name, work)
    if spec["kind"] != kind:
        verbs = {"method": "apply"}
        raise RetrofitError(
            f"{name} is a {spec['kind']} run; use: python -m methods {verbs.get(spec['kind'], spec['kind'])} {name}"
        )
    directory = results / "runs" / kind / name
    with artifact.only_one(name, work):
        if artifact.is_done(directory, spec["key"]):
            return directory
        watch = Stopwatch()
        checkpoint = work / "checkpoints" / spec["key"]
        gpus = spec["spec"].get("params", {}).get("gpus", 0)
        with slot(gpus, work) as device, artifact.writing(directory) as aside:
            context = _context(spec, device, checkpoint)
            _pin_threads(spec["threads"], kind)
            payload, found = _work(spec, context, results, data)
            if payload is not None:
                payload.save(aside)
            context.write_history(aside / "history.jsonl")
            if found:
                metrics.write(aside / "metrics.json", found)
            meta = {
                **{
                    key: spec[key]
                    for key in (
                        "key",
                        "kind",
                        "slug",
                        "implementation",
                        "spec",
                        "seed",
                        "code",
                        "upstream",
                    )
                },
                "code_files": _code_files(spec),
                "payload": getattr(payload, "loader", None),
                "files": artifact.list_files(aside),
                **watch.read(),
                **environment(device, spec["threads"]),
            }
            artifact.write_meta(aside, meta)
        context.checkpoint.clear()
    return directory


def _work(
    spec: dict, context: Context, results: Path, data: Path
) -> tuple[Any, dict[str, metrics.Metric]]:
    module, function = spec["implementation"].split(":")
    work = getattr(importlib.import_module(module), function)
    upstream = {
        role: load_upstream(path, results)
        for role, path in spec["upstream"].items()
        if not role.startswith("data:")
    }
    if spec["kind"] == "data":
        return work(spec["spec"]["dataset"], data, context), {}
    if spec["kind"] == "base":
        payload = work(spec["spec"], context)
        return payload, getattr(payload, "metrics", None) or {}
    entry = find("method" if spec["kind"] == "method" else "measure", _own_name(spec))
    params = entry.params.model_validate(spec["spec"]["params"])
    _say_if_slow(params, context)
    _right_bytes(spec, data)
    loaded = {
        role: [_load_data(ref, data) for ref in refs] for role, refs in spec["spec"]["data"].items()
    }
    if spec["kind"] == "evaluate":
        return None, work(upstream["model"], loaded, params, context)
    payload = work(upstream.get("base"), loaded, params, context)
    return payload, getattr(payload, "metrics", None) or {}


def load_upstream(path: str, results: Path) -> Any:
    """The payload of a finished run, by the loader that its `meta.json` names."""
    directory = results / "runs" / path
    # Read whole in any case, and a flipped bit in weights would show nowhere else.
    problems = artifact.check_files(directory, deep=True)
    if problems:
        raise RetrofitError(
            f"upstream run is not usable: {'; '.join(problems)}; delete {directory} and run again"
        )
    meta = artifact.read_meta(directory) or {}
    loader = meta.get("payload")
    if not loader or not loader.startswith("methods."):
        raise RetrofitError(f"{directory} holds nothing that can be loaded")
    module, function = loader.split(":")
    return getattr(importlib.import_module(module), function)(directory)


def _own_name(spec: dict) -> str:
    params = spec["spec"]["params"]
    return params["method"] if spec["kind"] == "method" else params["measure"]


def _say_if_slow(params: Any, context: Context) -> None:
    """bfloat16 on a processor without its instructions is emulated, some twenty times slower than float32."""
    if context.device != "cpu":
        return
    for field in ("dtype", "compute_dtype"):
        if getattr(params, field, None) == "bfloat16":
            import torch

            if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
                print(
                    f"{context.label}: this processor has no bfloat16 arithmetic, so this takes many times as long; "
                    f"the study can say {field}: float32",
                    file=sys.stderr,
                    flush=True,
                )


def _right_bytes(spec: dict, root: Path) -> None:
    """Every data set of the run as `data.dvc` says, whatever happened to the folder since it was built."""
    from methods.data.building import build

    for role in spec["upstream"]:
        if role.startswith("data:"):
            build(role.removeprefix("data:"), root)


def _load_data(ref: dict, root: Path) -> Any:
    from methods.data.loading import load

    loaded = load(DataRef.model_validate(ref), root)
    # Frozen data classes; the options say how much of the split the method takes.
    object.__setattr__(
        loaded, "options", {key: value for key, value in ref.items() if key != "set"}
    )
    return loaded


def _context(spec: dict, device: str, checkpoint: Path) -> Context:
    history: list[dict] = []
    label = f"{spec['slug']}" + (f" seed {spec['seed']}" if spec["seed"] is not None else "")
    identity = {
        role: sorted(ref["set"] for ref in refs)
        for role, refs in sorted(spec["spec"].get("data", {}).items())
    }
    return Context(
        seed=spec["seed"],
        data_identity=json.dumps(identity, sort_keys=True),
        device=device,
        label=label,
        checkpoint=Checkpoint(checkpoint, history),
        history=history,
        log=logging.getLogger("methods"),
    )


def _pin_threads(threads: int, kind: str) -> None:
    if kind in ("base", "method", "evaluate") and "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)


def _code_files(spec: dict) -> dict[str, str]:
    from methods.study.closure import files

    return files(spec["implementation"].split(":")[0])
