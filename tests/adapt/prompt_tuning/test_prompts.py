"""The equations: DePT's against its published code, the reconstructed parts against closed forms, the reductions."""

import math

import pytest
import torch
from peft import PromptTuningConfig, get_peft_model

from methods.adapt.prompt_tuning import decomposition, fusion, spaces
from methods.adapt.prompt_tuning.params import Dept, Ept
from methods.adapt.prompt_tuning.prompts import DecomposedPrompt, Prompted, load_prompt
from tests.adapt.prompt_tuning.golden import ALPHA, LENGTH, RANK, TOKENS, inputs, t5, tensor

OFF = {"fusion": "none", "spaces": 0}
SIZES = {"length": LENGTH, "tokens": TOKENS, "rank": RANK, "alpha": ALPHA, "batch": 2}


def golden_prompt(settings, b=None):
    found = {
        "prompt_embeddings": tensor("dept.P"),
        "lora_embedding_A": tensor("dept.A"),
        "lora_embedding_B": tensor("dept.B") if b is None else b,
    }
    made = DecomposedPrompt(found["prompt_embeddings"], settings, RANK, stream())
    made.load_state_dict(found, strict=False)
    return made


def stream(seed=3):
    return torch.Generator().manual_seed(seed)


def shaken(prompt, seed=9):
    """All parameters moved away from where they start."""
    generator = stream(seed)
    with torch.no_grad():
        for parameter in prompt.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return prompt


def test_embeddings_are_those_of_the_published_code():
    scale = decomposition.scaling(ALPHA, RANK)
    assert scale == float(tensor("dept.scaling"))
    added = decomposition.update(tensor("dept.A"), tensor("dept.B"), scale)
    found = decomposition.reconstructed(tensor("dept.P"), tensor("dept.word_emb"), added)
    torch.testing.assert_close(found, tensor("dept.inputs_embeds"), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("settings", [Dept(**SIZES), Ept(**SIZES, **OFF)], ids=["dept", "ept-off"])
def test_loss_logits_and_gradients_are_those_of_the_published_code(settings):
    model = Prompted(t5(), golden_prompt(settings))
    out = model(**inputs())
    torch.testing.assert_close(out.loss, tensor("dept.loss"), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(out.logits, tensor("dept.logits"), atol=1e-5, rtol=1e-5)
    out.loss.backward()
    theirs = {
        "prompt_embeddings": "embedding.weight",
        "lora_embedding_A": "lora_embedding_A",
        "lora_embedding_B": "lora_embedding_B",
    }
    for ours, name in theirs.items():
        gradient = getattr(model.prompt, ours).grad
        torch.testing.assert_close(gradient, tensor(f"dept.grad.{name}"), atol=1e-5, rtol=1e-4)


def test_without_an_update_it_is_peft_prompt_tuning():
    config = PromptTuningConfig(
        task_type="SEQ_2_SEQ_LM", num_virtual_tokens=TOKENS, num_transformer_submodules=1
    )
    base = t5()
    ours = Prompted(base, golden_prompt(Ept(**SIZES), b=torch.zeros(RANK, 32)))(**inputs())
    peft = get_peft_model(base, config)
    with torch.no_grad():
        peft.prompt_encoder["default"].embedding.weight.copy_(tensor("dept.P"))
    theirs = peft(**inputs())
    assert torch.equal(ours.logits, theirs.logits)
    torch.testing.assert_close(ours.logits, tensor("hfpt.logits"), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours.loss, tensor("hfpt.loss"), atol=1e-5, rtol=1e-5)


def test_ranks_of_the_published_budgets():
    ranks = [decomposition.affordable_rank(100, m, 256, 768) for m in (20, 40, 60, 80, 100)]
    assert ranks == [60, 45, 30, 15, 0]
    assert decomposition.affordable_rank(100, 60, 512, 768) == 24
    for tokens, rank in zip((20, 40, 60, 80), ranks, strict=False):
        assert decomposition.parameters(tokens, rank, 256, 768) == 100 * 768


def test_a_short_batch_uses_the_first_rows_of_the_update():
    added = torch.arange(24.0).view(12, 2)
    found = decomposition.reconstructed(torch.ones(3, 2), torch.zeros(1, 4, 2), added)
    assert torch.equal(found[0], torch.cat([torch.ones(3, 2), added[:4]]))


def test_the_start_of_the_low_rank_update():
    settings = Dept(**{**SIZES, "length": 256, "rank": 16})
    prompt = DecomposedPrompt(torch.zeros(TOKENS, 32), settings, 16, stream())
    assert not prompt.lora_embedding_B.any()
    largest = float(prompt.lora_embedding_A.detach().abs().max())
    assert 0.95 / math.sqrt(16) < largest <= 1 / math.sqrt(16)
    assert float(tensor("init.A_bound")) == 1 / math.sqrt(RANK)


def test_attention_by_hand():
    prompt, added = torch.tensor([[1.0, 0.0]]), torch.tensor([[2.0, 0.0], [0.0, 4.0]])
    first = math.exp(2 / math.sqrt(2)) / (math.exp(2 / math.sqrt(2)) + 1)
    expected = prompt + 0.5 * torch.tensor([[2 * first, 4 * (1 - first)]])
    found = fusion.fused(prompt, added, "cross_attention", scale=0.5)
    torch.testing.assert_close(found, expected)
    assert fusion.fused(prompt, added, "none") is prompt
    itself = fusion.fused(prompt, torch.zeros(2, 2), "self_attention")
    share = math.exp(1 / math.sqrt(2)) / (math.exp(1 / math.sqrt(2)) + 2)
    torch.testing.assert_close(itself, prompt * (1 + share))
    assert torch.equal(fusion.fused(prompt, torch.zeros(2, 2), "cross_attention"), prompt)


def test_learned_queries_and_keys_change_only_the_weights():
    generator = stream()
    prompt, added = torch.randn(3, 4, generator=generator), torch.randn(5, 4, generator=generator)
    eye = torch.eye(4)
    torch.testing.assert_close(
        fusion.attended(prompt, added, eye, eye), fusion.attended(prompt, added)
    )
    zero = torch.zeros(4, 2)
    flat = fusion.attended(prompt, added, zero, zero)
    torch.testing.assert_close(flat, added.mean(0).expand(3, 4))


@pytest.mark.parametrize("kind", ["mean", "token", "static"])
def test_gates_are_weights_and_one_space_needs_none(kind):
    generator = stream()
    prompt = torch.randn(3, 4, generator=generator)
    weight, bias = torch.randn(5, 4, generator=generator), torch.randn(5, generator=generator)
    found = spaces.gates(prompt, weight, bias, 0.7, kind)
    assert found.shape == ((3, 5) if kind == "token" else (1, 5))
    assert (found >= 0).all()
    torch.testing.assert_close(found.sum(1), torch.ones(len(found)))
    alone = spaces.gates(prompt, weight[:1], bias[:1], 0.7, kind)
    assert torch.equal(alone, torch.ones_like(alone))
    cold = spaces.gates(prompt, weight, bias, 1e-3, kind)
    assert torch.equal(cold.argmax(1), found.argmax(1))
    torch.testing.assert_close(cold.max(1).values, torch.ones(len(cold)))


def test_projection_by_hand():
    prompt = torch.tensor([[1.0, 2.0]])
    down = torch.tensor([[[1.0], [0.0]], [[0.0], [1.0]]])
    up = torch.tensor([[[0.0, 3.0]], [[5.0, 0.0]]])
    views = spaces.projected(prompt, down, up, "none")
    assert views.tolist() == [[[1.0, 5.0]], [[11.0, 2.0]]]
    mixed = spaces.combined(views, torch.tensor([[0.25, 0.75]]))
    assert mixed.tolist() == [[8.5, 2.75]]
    curved = spaces.projected(prompt, down, up, "gelu")
    expected = 2.0 + 3 * 0.5 * (1 + math.erf(1 / math.sqrt(2)))
    assert float(curved[0, 0, 1]) == pytest.approx(expected, abs=1e-6)


def test_the_order_of_spaces_does_not_matter():
    prompt = shaken(DecomposedPrompt(tensor("dept.P"), Ept(**SIZES), RANK, stream()))
    before = prompt()[0]
    order = torch.tensor([2, 0, 3, 1])
    with torch.no_grad():
        for name in ("space_down", "space_up", "gate_weight", "gate_bias"):
            parameter = getattr(prompt, name)
            parameter.copy_(parameter[order])
    torch.testing.assert_close(prompt()[0], before)


@pytest.mark.parametrize(
    "changes", [{}, {"fusion_width": 5}, {"gate": "token"}, {"gate": "static"}]
)
def test_ept_starts_as_dept_and_leaves_it(changes):
    settings = Ept(**SIZES, **changes)
    start = DecomposedPrompt(tensor("dept.P"), settings, RANK, stream())
    same = DecomposedPrompt(tensor("dept.P"), Dept(**SIZES), RANK, stream())
    torch.testing.assert_close(start()[0], same()[0], atol=1e-6, rtol=1e-6)
    assert torch.equal(start()[1], same()[1])
    moved = shaken(start)
    assert not torch.allclose(moved()[0], moved.prompt_embeddings, atol=1e-2)


def test_folding_changes_no_bit_and_leaves_nothing_to_compute():
    prompt = shaken(DecomposedPrompt(tensor("dept.P"), Ept(**SIZES), RANK, stream()))
    folded = prompt.fold()
    assert all(torch.equal(*pair) for pair in zip(prompt(), folded(), strict=True))
    assert not list(folded.parameters())
    dept = DecomposedPrompt(tensor("dept.P"), Dept(**SIZES), RANK, stream()).fold()
    assert [x.shape for x in folded()] == [x.shape for x in dept()]


def test_counts_by_part():
    width = 32
    prompt = DecomposedPrompt(tensor("dept.P"), Ept(**SIZES, fusion_width=3), RANK, stream())
    assert prompt.counts() == {
        "decomposition": decomposition.parameters(TOKENS, RANK, LENGTH, width),
        "fusion": 2 * width * 3,
        "projection": 2 * 4 * width * 4,
        "gate": 4 * width + 4,
    }
    assert sum(prompt.counts().values()) == sum(p.numel() for p in prompt.parameters())
    again = load_prompt(prompt.settings, prompt.state_dict())
    assert torch.equal(again()[0], prompt()[0])


def test_padding_moves_nothing():
    model = Prompted(t5(), shaken(golden_prompt(Ept(**SIZES))))
    given = inputs()
    assert (given["attention_mask"] == 0).any()
    other = torch.where(given["attention_mask"].bool(), given["input_ids"], 9)
    moved = model(**{**given, "input_ids": other})
    torch.testing.assert_close(moved.loss, model(**given).loss)
