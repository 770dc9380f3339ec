"""The family's tokenizer: the model's own, set to truncate and pad to the family's sequence length."""

from pathlib import Path

from tokenizers import Tokenizer

from quadloom_export.pretrained import source_arguments
from quadloom_runtime.durable_files import write_atomically
from quadloom_runtime.errors import QuadloomError


def load_tokenizer(source: str, *, sequence_length: int) -> Tokenizer:
    """Load the tokenizer of a hub id, folder or ``.gguf`` file in the form that runs without transformers.

    Where the tokenizer has no padding token, as those of many language models, its end-of-text token stands in:
    padding is masked and never counts.

    Raises:
        QuadloomError: there is none, or it has no padding token.
    """
    from transformers import AutoTokenizer

    remedy = "put tokenizer.json and tokenizer_config.json beside the model's weights"
    try:
        loaded = AutoTokenizer.from_pretrained(**source_arguments(source), use_fast=True)
    except Exception as error:  # the tokenizers library raises nothing narrower
        detail = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise QuadloomError(f"no tokenizer in {source!r}: {detail}", remedy=remedy) from error
    # Where transformers finds no vocabulary, it makes up one of special tokens, and every word would be unknown.
    if set(loaded.get_vocab()) <= set(loaded.all_special_tokens):
        raise QuadloomError(f"no tokenizer in {source!r}: it knows special tokens only", remedy=remedy)
    padding = loaded.pad_token or loaded.eos_token
    if padding is None:
        raise QuadloomError(f"the tokenizer of {source!r} has no padding token", remedy="set pad_token in its config")
    tokenizer: Tokenizer = loaded.backend_tokenizer
    tokenizer.enable_truncation(max_length=sequence_length)
    pad_id = loaded.convert_tokens_to_ids(padding)
    tokenizer.enable_padding(direction="right", length=sequence_length, pad_id=pad_id, pad_token=padding)
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Write ``tokenizer.json``."""
    write_atomically(folder / "tokenizer.json", tokenizer.to_str().encode())
