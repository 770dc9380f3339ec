"""The random BERT of two layers that families of the fleets' tests are made of."""

from pathlib import Path


def save_tiny_bert(folder: Path, *, vocabulary: int) -> None:
    """Write it, the same one every time; the tokenizer is the caller's."""
    import torch
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=vocabulary,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=16,
    )
    BertModel(config).save_pretrained(folder)
