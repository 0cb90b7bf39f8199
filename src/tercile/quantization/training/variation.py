"""New texts out of few: words replaced by words from elsewhere.

What a text means does not matter when a small model learns from a large one, only that both read the same. Jiao et al.
(2020), "TinyBERT", replace words by likely ones for the same end; here any word of the calibration set will do.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch


@dataclass(frozen=True, eq=False)
class Substitution:
    """Replaces tokens at random by tokens drawn from all texts as often as they occur there.

    Attributes
    ----------
    words
        Tokens to draw from, int64 (n,).
    special
        Tokens that are never replaced or drawn: the marks of beginning, end and padding.
    share
        Of the tokens that are replaced.

    Examples
    --------
    >>> texts = torch.tensor([[101, 7, 8, 9, 102], [101, 5, 6, 102, 0]])
    >>> vary = Substitution.of([texts], special=(0, 101, 102), share=0.5)
    >>> sorted(vary.words.tolist())
    [5, 6, 7, 8, 9]
    >>> new = vary(texts, torch.Generator().manual_seed(0))
    >>> bool((new == texts).any()), bool((new != texts).any()), new[:, 0].tolist(), new[1, 3:].tolist()
    (True, True, [101, 101], [102, 0])
    """

    words: torch.Tensor
    special: torch.Tensor
    share: float

    @classmethod
    def of(cls, texts: Iterable[torch.Tensor], special: Iterable[int], share: float = 0.2) -> Substitution:
        """Draws from texts, int64 tensors of tokens.

        Raises
        ------
        ValueError
            If share is not between 0 and 1, or there is nothing to draw from.
        """
        if not 0 <= share <= 1:
            raise ValueError(f"share must be between 0 and 1, got {share}")
        marks = torch.tensor(sorted(set(special)), dtype=torch.int64)
        words = torch.cat([torch.zeros(0, dtype=torch.int64), *(text.reshape(-1).cpu() for text in texts)])
        words = words[~torch.isin(words, marks)]
        if not len(words):
            raise ValueError("texts hold no token but special ones; there is nothing to draw from")
        return cls(words, marks, share)

    def __call__(self, tokens: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """A copy of the tokens with some of them replaced."""
        chosen = torch.rand(tokens.shape, generator=generator).to(tokens.device) < self.share
        chosen &= ~torch.isin(tokens, self.special.to(tokens.device))
        drawn = self.words[torch.randint(len(self.words), (int(chosen.sum()),), generator=generator)]
        replaced = tokens.clone()
        replaced[chosen] = drawn.to(tokens.device)
        return replaced
