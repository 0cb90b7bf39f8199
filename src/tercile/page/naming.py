"""From names in code and in the catalogue to words for people."""

from __future__ import annotations

import re

#: What a verdict means, in a few words.
VERDICTS = {
    "holds": "every check passes, on every seed",
    "partly": "some checks pass, others do not",
    "not here": "no check passes, or it can't be tried here",
    "not yet": "nobody has measured it here",
    "imported": "brought by a reader, not measured",
}
#: Parts of names that are written in another way than in code.
WRITTEN = {
    "hpo": "hyperparameters", "rl": "reinforcement learning", "montecarlo": "Monte Carlo", "bayes": "Bayes",
    "kl": "KL", "gptq": "GPTQ", "mse": "MSE", "cnn": "CNN", "pq": "PQ", "opq": "OPQ", "milp": "MILP", "cdf": "CDF",
    "vit": "ViT", "snip": "SNIP", "synflow": "SynFlow", "hawq": "HAWQ", "xgboost": "XGBoost", "faiss": "Faiss",
    "quantease": "QuantEase", "svdquant": "SVDQuant", "adaquant": "AdaQuant", "minmax": "min-max",
}  # fmt: skip
#: A hyphen at which no line breaks.
HYPHEN = "\u2011"
_NUMBERED = re.compile(r"(\d+(?:to\d+)?)(bits?|bytes)")
_FORMAT = re.compile(r"(?:int|fp|w\da)\d+")
_RANKED = re.compile(r"(recall|precision|ndcg)(\d+)")
_JOINED = re.compile(r"(\d+(?=[a-z])|(?:kl|(?!logsqrt)[a-z]{4,})(?=\d))(\d+|[a-z]{4,})")
_NAME = re.compile(r"[a-z]\w*")


def spoken(name: str) -> str:
    """The name of a quantity or of a room's last part in words.

    >>> spoken("nearest_kl_4bit"), spoken("recall10_16bytes"), spoken("order1_slope"), spoken("noise_shaping")
    ('nearest KL 4‑bit', 'recall@10 16‑byte', 'order 1 slope', 'noise shaping')
    """
    return " ".join(_part(part) for part in name.split("_") if part)


def _part(part: str) -> str:
    if part in WRITTEN:
        return WRITTEN[part]
    if numbered := _NUMBERED.fullmatch(part):
        return f"{numbered[1].replace('to', ' to ')}{HYPHEN}{numbered[2].removesuffix('s')}"
    if _FORMAT.fullmatch(part):
        return part.upper()
    if ranked := _RANKED.fullmatch(part):
        return f"{ranked[1]}@{ranked[2]}"
    if joined := _JOINED.fullmatch(part):
        return f"{WRITTEN.get(joined[1], joined[1])} {joined[2]}"
    return part


def formula(text: str) -> str:
    """A limit in words.

    >>> formula("0.9 * min(minmax_kl, 2) - 0.1")
    '0.9 × the least of (min-max KL, 2) − 0.1'
    """
    functions = {"min": "the least of ", "max": "the greatest of "}
    text = text.replace("*", "×").replace("-", "−")
    return _NAME.sub(lambda found: functions.get(found[0]) or spoken(found[0]), text)


def room_words(room: str) -> str:
    """A room in words.

    >>> room_words("quantization.noise_shaping"), room_words("quantiles.rl"), room_words("stats")
    ('quantization / noise shaping', 'quantiles / reinforcement learning', 'stats')
    """
    return " / ".join(spoken(part) for part in room.split("."))
