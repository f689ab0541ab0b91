"""What a method leaves behind loads where this project is not: a script that imports transformers only."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch

from methods.models.language import LanguageModel
from tests.models.grid import quantize_model
from tests.models.tiny import tiny_model, tiny_tokens

ARCHITECTURES = ("llama", "mistral", "qwen2", "gemma3")
SCRIPT = """
import json, sys
import torch
from transformers import AutoModelForCausalLM

torch.set_num_threads(1)
tokens = torch.tensor(json.loads(sys.argv[1]))
logits = {}
for directory in sys.argv[2:]:
    model = AutoModelForCausalLM.from_pretrained(directory)
    with torch.no_grad():
        logits[directory] = model(tokens).logits[:, -1].tolist()
assert not [name for name in sys.modules if name.split(".")[0] == "methods"]
print(json.dumps(logits))
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """`{architecture: (logits of the script, logits here)}` of the last token; one start for all."""
    place, tokens = tmp_path_factory.mktemp("artifacts"), tiny_tokens(2, 9)
    wanted = {}
    for architecture in ARCHITECTURES:
        model = tiny_model(architecture)
        # Two widths, so that the checkpoint has more than one group of layers.
        packed = quantize_model(model, [(4, 16, False), (3, 16, True)])
        LanguageModel(model, quantized=packed).save(place / architecture)
        with torch.no_grad():
            wanted[architecture] = model(tokens).logits[:, -1]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(tokens.tolist()), *ARCHITECTURES],
        cwd=place,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    got = json.loads(done.stdout.splitlines()[-1])
    return {name: (torch.tensor(got[name]), wanted[name]) for name in ARCHITECTURES}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_an_artifact_loads_without_this_project_and_gives_the_same_logits(found, architecture):
    theirs, ours = found[architecture]
    torch.testing.assert_close(theirs, ours, rtol=1e-6, atol=1e-6)
