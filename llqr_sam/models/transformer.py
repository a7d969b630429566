"""fairseq's Transformers for translation (Vaswani et al., arXiv 1706.03762), as modules from tokens to logits."""

from __future__ import annotations

from argparse import Namespace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from llqr_sam.fairseq_compat import ensure_fairseq

_SIZES: dict[str, dict[str, int]] = {
    "transformer_iwslt": {},  # fairseq's transformer_iwslt_de_en: 6 + 6 layers, width 512, feed-forward 1024, 4 heads
    "transformer_small": {"layers": 2, "embed_dim": 128, "ffn_embed_dim": 256, "attention_heads": 4},
}

TRANSFORMERS: tuple[str, ...] = tuple(_SIZES)


class Translator(nn.Module):
    """fairseq's encoder and decoder with one tensor as output; ``padding`` is the token that pads the source."""

    def __init__(self, transformer: nn.Module, padding: int) -> None:
        super().__init__()
        self.transformer = transformer
        self._padding = padding

    def forward(self, source: Tensor, previous: Tensor) -> Tensor:
        """Source tokens ``[B, S]`` and target tokens so far ``[B, T]``, both padded, to logits ``[B, T, V]``."""
        lengths = source.ne(self._padding).sum(dim=1)
        logits: Tensor = self.transformer(source, lengths, previous)[0]
        return logits


def _leave_fused_layer(layer: Any) -> None:
    """Remove the copies of its own weights from an encoder layer of fairseq.

    Only torch's fused layer reads these copies; nothing trains them, and loading weights fills them. The fused layer
    rounds differently and has no second derivative, so it is switched off.
    """
    for name in ("in_proj", "out_proj", "fc1", "fc2"):
        delattr(layer, f"{name}_weight")
        delattr(layer, f"{name}_bias")
    layer.can_use_fastpath = False
    layer._load_from_state_dict = partial(nn.Module._load_from_state_dict, layer)


def build_transformer(name: str, dictionaries: tuple[Any, Any], *, dropout: float) -> Translator:
    """A network with fresh weights, drawn from the global generator as ``fairseq-train`` draws them.

    Args:
        name: One of ``TRANSFORMERS``.
        dictionaries: fairseq's, of the source and of the target language.
        dropout: Probability in embeddings and residual branches, in [0, 1); attention has none.

    The decoder's input and output embeddings are one parameter, as in fairseq's recipe.
    """
    ensure_fairseq()
    from fairseq.models.transformer import TransformerModel
    from fairseq.models.transformer.transformer_legacy import transformer_iwslt_de_en

    sizes = {f"{side}_{key}": value for side in ("encoder", "decoder") for key, value in _SIZES[name].items()}
    arguments = Namespace(**sizes, dropout=dropout, share_decoder_input_output_embed=True)
    transformer_iwslt_de_en(arguments)
    task = Namespace(source_dictionary=dictionaries[0], target_dictionary=dictionaries[1])
    transformer: Any = TransformerModel.build_model(arguments, task)
    for key, buffer in transformer.named_buffers():
        if key.endswith("_float_tensor"):  # fairseq reads only its dtype and leaves its value uninitialised
            buffer.zero_()
    for layer in transformer.encoder.layers:
        _leave_fused_layer(layer)
    return Translator(transformer, dictionaries[0].pad())


def transformer_shapes(name: str, words: tuple[int, int]) -> Translator:
    """The network on the meta device: shapes without memory.

    Args:
        name: One of ``TRANSFORMERS``.
        words: Words in the source and in the target dictionary.

    Raises:
        MissingFairseqError: fairseq is not installed.
        ValueError: A dictionary is smaller than fairseq's own symbols.
    """
    ensure_fairseq()
    from fairseq.data import Dictionary

    dictionaries = Dictionary(), Dictionary()
    for dictionary, count in zip(dictionaries, words, strict=True):
        if count < len(dictionary):
            raise ValueError(f"words={count} must be at least {len(dictionary)}: fairseq's own.")
        for number in range(count - len(dictionary)):
            dictionary.add_symbol(f"w{number}")
    with torch.device("meta"):
        return build_transformer(name, dictionaries, dropout=0.0)
