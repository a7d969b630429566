"""Beam-search translations of the validation pairs and their BLEU score, by fairseq and by sacreBLEU.

Both compare whole words, with subwords joined. fairseq's score is of tokenised text, as in ``fairseq-generate
--remove-bpe``; sacreBLEU's is of text whose Moses tokenisation is undone, as in ``--eval-bleu-detok moses``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from llqr_sam.data.translation import LANGUAGES, PairBatches

# fairseq's recipe for IWSLT14; a translation of S source tokens has at most 1.2 S + 10.
SEARCH = {"beam_size": 5, "len_penalty": 1.0, "max_len_a": 1.2, "max_len_b": 10}
_JOINED = "subword_nmt"  # fairseq's name for removing "@@ "


class BleuScorer:
    """BLEU against the target side of ``pairs``, fairseq's ``LanguagePairDataset``."""

    def __init__(self, pairs: Any, dictionaries: tuple[Any, Any]) -> None:
        from sacrebleu.metrics import BLEU
        from sacremoses import MosesDetokenizer

        self._target = dictionaries[1]
        self._detokeniser = MosesDetokenizer(LANGUAGES[1])
        self._references = [self._target.string(pairs.tgt[i], _JOINED, escape_unk=True) for i in range(len(pairs))]
        self._detokenised = [self._detokenise(line) for line in self._references]
        self._sacrebleu = BLEU()
        # Both scores of the source as its own translation, and how sacreBLEU describes its own.
        self.copy = self.of([dictionaries[0].string(pairs.src[i], _JOINED) for i in range(len(pairs))])
        self.signature = str(self._sacrebleu.get_signature())

    def translations(self, model: nn.Module, batches: PairBatches) -> list[str]:
        """Translate the source of every pair by beam search; words, in the order of the pairs."""
        from fairseq.sequence_generator import SequenceGenerator

        generator = SequenceGenerator([model], self._target, **SEARCH)
        found = [""] * batches.size
        padding = batches.pairs.src_dict.pad()
        for numbers, ((source, _), _) in batches:
            inputs = {"src_tokens": source, "src_lengths": source.ne(padding).sum(dim=1)}
            beams = generator.generate([model], {"net_input": inputs})
            for number, hypotheses in zip(numbers, beams, strict=True):
                found[number] = self._target.string(hypotheses[0]["tokens"].cpu(), _JOINED)
        return found

    def of(self, translations: Sequence[str]) -> tuple[float, float]:
        """fairseq's and sacreBLEU's score in percent, of one translation a pair."""
        detokenised = [self._detokenise(line) for line in translations]
        sacrebleu = self._sacrebleu.corpus_score(detokenised, [self._detokenised]).score
        return self._fairseq(translations), float(sacrebleu)

    def _fairseq(self, translations: Sequence[str]) -> float:
        from fairseq.data import Dictionary
        from fairseq.scoring.bleu import BleuConfig, Scorer

        words = Dictionary()  # numbers whole words as they come
        scorer = Scorer(BleuConfig(pad=words.pad(), eos=words.eos(), unk=words.unk()))
        for reference, translation in zip(self._references, translations, strict=True):
            encoded = (words.encode_line(line, add_if_not_exist=True) for line in (reference, translation))
            scorer.add(*(line.to(torch.int32) for line in encoded))
        return float(scorer.score()) if any(translations) else 0.0

    def _detokenise(self, line: str) -> str:
        return str(self._detokeniser.detokenize(line.split()))
