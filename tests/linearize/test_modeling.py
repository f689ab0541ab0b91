"""The linearised model as a transformers model: caches, padding, generation, files, adapters."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM
from transformers.cache_utils import DynamicCache

from methods.linearize.conversion import linearized
from methods.linearize.modeling import LinearizedForCausalLM
from methods.study.errors import RetrofitError
from tests.linearize.models import FAMILIES, VARIANTS, tiny, tokens


def converted(name: str = "gla", family: str = "llama") -> LinearizedForCausalLM:
    return linearized(tiny(family), 0, **VARIANTS[name])


def close(found, wanted, tolerance=1e-4):
    scale = wanted.abs().max()
    assert (found - wanted).abs().max() < tolerance * scale


@pytest.mark.parametrize("family", FAMILIES)
def test_a_window_over_everything_is_the_base_itself(family):
    base, x = tiny(family), tokens()
    model = linearized(base, 0, alpha=0.0, beta=1.0, window=150)
    close(model(x).logits, base(x).logits, 1e-5)


def test_base_weights_load_strictly_and_nothing_is_added():
    base = tiny()
    model = converted()
    assert set(model.state_dict()) == set(base.state_dict())
    assert sum(p.numel() for p in model.parameters()) == sum(p.numel() for p in base.parameters())


@pytest.mark.parametrize("name", VARIANTS)
@torch.no_grad()
def test_prefill_chunks_and_single_tokens_give_the_parallel_form(name):
    model, x = converted(name), tokens()
    wanted = model(x, use_cache=False).logits
    cache, found = None, []
    for part in (x[:, :2], x[:, 2:50], x[:, 50:53], *x[:, 53:].split(1, 1)):
        out = model(part, past_key_values=cache, use_cache=True)
        cache = out.past_key_values
        found.append(out.logits)
    close(torch.cat(found, 1), wanted)
    assert cache.get_seq_length() == x.shape[1]


@pytest.mark.parametrize("name", VARIANTS)
@torch.no_grad()
def test_padding_on_the_left_changes_nothing(name):
    model, x = converted(name), tokens(length=60)
    wanted = model(x, use_cache=False).logits
    padded = torch.cat([torch.zeros(2, 9, dtype=torch.int64), x], 1)
    padded[1] = padded[1].roll(-4)  # rows with 9 and with 5 tokens of padding
    mask = torch.ones_like(padded)
    mask[0, :9], mask[1, :5] = 0, 0
    places = (mask.cumsum(1) - 1).clamp(min=0)
    cache, found = None, []
    for start, stop in ((0, 20), (20, 40), *((t, t + 1) for t in range(40, 69))):
        out = model(
            padded[:, start:stop],
            attention_mask=mask[:, :stop],
            position_ids=places[:, start:stop],
            past_key_values=cache,
            use_cache=True,
        )
        cache = out.past_key_values
        found.append(out.logits)
    found = torch.cat(found, 1)
    close(found[0, 9:], wanted[0])
    close(found[1, 5:65], wanted[1])


@pytest.mark.parametrize("name", ["gla", "gsa", "window and sinks", "hybrid"])
@torch.no_grad()
def test_packed_documents_do_not_see_each_other(name):
    model, x = converted(name), tokens(rows=1, length=90)
    places = torch.cat([torch.arange(37), torch.arange(53)])[None]
    packed = model(x, position_ids=places, use_cache=False).logits
    if name == "window and sinks":  # the first document's tokens are the row's sinks
        close(packed[:, :37], model(x[:, :37], use_cache=False).logits)
        return
    close(packed[:, 37:], model(x[:, 37:], use_cache=False).logits)


@pytest.mark.parametrize(
    "name", ["gla", "hgrn2", "gsa", "window and sinks", "hybrid", "lolcats", "supra"]
)
def test_generate_is_greedy_decoding_without_a_cache(name):
    model, x = converted(name), tokens(length=40)
    x[1, :6] = 0
    mask = (x != 0).long()
    options = {
        "attention_mask": mask,
        "max_new_tokens": 30,
        "do_sample": False,
        "eos_token_id": None,
    }
    fast = model.generate(x, **options)
    again = model.generate(x, **options)
    slow = model.generate(x, use_cache=False, **options)
    assert torch.equal(fast, again)
    assert torch.equal(fast, slow)


def test_beams_reorder_rings_and_states():
    model, x = converted(), tokens(length=30)
    options = {"max_new_tokens": 12, "num_beams": 3, "do_sample": False, "eos_token_id": None}
    fast = model.generate(x, attention_mask=torch.ones_like(x), **options)
    slow = model.generate(x, attention_mask=torch.ones_like(x), use_cache=False, **options)
    assert torch.equal(fast, slow)


@torch.no_grad()
def test_memory_does_not_grow_with_the_context():
    from methods.measure.decode_latency import _tensor_bytes

    sizes = []
    for length in (40, 140):
        cache = converted()(tokens(length=length), use_cache=True).past_key_values
        sizes.append(_tensor_bytes(cache, set()))
    assert sizes[0] == sizes[1] > 0


def test_a_cache_made_for_another_model_is_refused():
    with pytest.raises(RetrofitError, match="cache of its own configuration"):
        converted()(tokens(), past_key_values=DynamicCache())


@pytest.mark.parametrize(
    "name", ["gla", "learned maps", "lolcats", "supra", "gate from a projection"]
)
def test_files_load_by_the_auto_class_in_a_plain_script(name, tmp_path):
    model = converted(name, "qwen2")
    model.save_pretrained(tmp_path)
    (tmp_path / "wanted").mkdir()
    save_file(
        {"logits": model(tokens()).logits.detach()}, tmp_path / "wanted" / "logits.safetensors"
    )
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(again(tokens()).logits, model(tokens()).logits)
    if name != "gla":
        return
    script = (
        "import sys, torch, methods.linearize.modeling\n"
        "from safetensors.torch import load_file\n"
        "from transformers import AutoModelForCausalLM\n"
        "model = AutoModelForCausalLM.from_pretrained(sys.argv[1])\n"
        "x = torch.randint(3, 101, (2, 150), generator=torch.Generator().manual_seed(1))\n"
        "wanted = load_file(sys.argv[1] + '/wanted/logits.safetensors')['logits']\n"
        "assert torch.equal(model(x).logits, wanted)\n"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True)


def test_adapters_of_peft_train_and_merge(tmp_path):
    from peft import LoraConfig, PeftModel, get_peft_model

    model, x = converted(), tokens()
    config = LoraConfig(r=4, target_modules=["q_proj", "k_proj", "v_proj"], task_type="CAUSAL_LM")
    adapted = get_peft_model(model, config, autocast_adapter_dtype=False)
    optimizer = torch.optim.SGD([p for p in adapted.parameters() if p.requires_grad], lr=0.3)
    before = adapted(x, labels=x).loss
    for _ in range(3):
        optimizer.zero_grad()
        adapted(x, labels=x).loss.backward()
        optimizer.step()
    adapted.eval()
    with torch.no_grad():
        wanted = adapted(x).logits
        assert adapted(x, labels=x).loss < before
        adapted.save_pretrained(tmp_path)
        reloaded = PeftModel.from_pretrained(converted(), tmp_path)
        close(reloaded(x).logits, wanted, 1e-5)
        close(adapted.merge_and_unload()(x).logits, wanted, 1e-5)


def test_gradient_checkpointing_gives_the_same_gradients():
    grads = []
    for on in (False, True):
        model = converted().train().requires_grad_(True)
        if on:
            model.activation_checkpointing_enable()
        model(tokens(), labels=tokens(), use_cache=False).loss.backward()
        grads.append(model.model.layers[0].self_attn.k_proj.weight.grad)
    torch.testing.assert_close(*grads)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "gemma3_text"}, "gemma3_text.*normalises queries and keys.*llama, mistral"),
        ({"model_type": "gpt2"}, "absolute positions"),
        ({"model_type": "mamba"}, "'mamba' cannot be linearised"),
        ({"model_type": "linearized_llama"}, "already"),
        ({"quantization_config": {"bits": 4}}, "quantised"),
        ({"model_type": "qwen2", "use_sliding_window": True}, "sliding-window"),
    ],
)
def test_bases_that_cannot_be_linearised_are_named_with_the_reason(change, message):
    from methods.linearize.bases import check_base

    with pytest.raises(RetrofitError, match=message):
        check_base({"model_type": "llama"} | change)


def test_missing_and_left_over_tensors_are_listed():
    base = tiny()
    base.extra = torch.nn.Linear(2, 2)
    with pytest.raises(RetrofitError, match=r"extra\.bias, extra\.weight"):
        linearized(base, 0)
    base = tiny()
    del base.model.layers[1].self_attn.q_proj
    with pytest.raises(RetrofitError, match=r"lacks model\.layers\.1\.self_attn\.q_proj\.weight"):
        linearized(base, 0)
