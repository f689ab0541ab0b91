"""Tiny random encoders with a tokenizer of whole words (no downloads)."""

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import (
    BertConfig,
    BertModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from methods.models.encoder import EncoderModel

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
WORDS = ["good", "bad", "fine", "poor", "film", "book", "plot", "actor"]
WORDS += ["the", "a", "is", "was", "very", "not", "0", "1", "2"]
CONTEXT = 24


def tokenizer(end_only=False):
    """Words of WORDS; `[CLS] text [SEP]`, or with `end_only` `text [SEP]` as T5 has it."""
    vocabulary = {word: number for number, word in enumerate(SPECIAL + WORDS)}
    made = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    made.pre_tokenizer = Whitespace()
    first = "" if end_only else "[CLS] "
    made.post_processor = TemplateProcessing(
        single=f"{first}$A [SEP]",
        pair=f"{first}$A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token"), SPECIAL, strict=True))
    return PreTrainedTokenizerFast(
        tokenizer_object=made, model_max_length=CONTEXT, eos_token="[SEP]", **names
    )


def tiny_encoder(**changes):
    """A random two-layer BERT of width 16, the same at every call."""
    config = BertConfig(
        **{
            "vocab_size": len(SPECIAL + WORDS),
            "hidden_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 32,
            "max_position_embeddings": CONTEXT,
            "initializer_range": 0.3,
            **changes,
        }
    )
    with torch.random.fork_rng():
        torch.manual_seed(5)
        model = BertModel(config)
    return EncoderModel("encoder", model.eval().requires_grad_(False), tokenizer())


def tiny_seq2seq():
    """A random T5 of width 16, the same at every call."""
    config = T5Config(
        vocab_size=len(SPECIAL + WORDS),
        d_model=16,
        d_kv=4,
        d_ff=32,
        num_layers=2,
        num_heads=4,
        pad_token_id=0,
        eos_token_id=3,
        decoder_start_token_id=0,
    )
    with torch.random.fork_rng():
        torch.manual_seed(5)
        model = T5ForConditionalGeneration(config)
    return EncoderModel("seq2seq", model.eval().requires_grad_(False), tokenizer(end_only=True))
