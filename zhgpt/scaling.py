"""What more text, and the same text again, bring: two published laws as numbers."""

import math

# Tokens per parameter at which a model of some size is best for its compute: Hoffmann et al. 2022,
# table 3, about 20 at every size. Parameters are all, embeddings counted.
OPTIMAL_RATIO = 20
R_STAR = 15.39  # epochs; fitted for data by Muennighoff et al. 2023, section 5


def worth_in_epochs(epochs: float) -> float:
    """Epochs of new text that so many epochs of the same text are worth.

    1 + R (1 - exp(-(epochs - 1) / R)) with R = 15.39 (Muennighoff et al. 2023, equation 5).
    """
    if epochs <= 1:
        return epochs
    return 1 + R_STAR * (1 - math.exp(-(epochs - 1) / R_STAR))


def last_epoch(epochs: float) -> float:
    """What the last of so many epochs adds, as a share of an epoch of new text: the derivative."""
    return math.exp(-max(0.0, epochs - 1) / R_STAR)
