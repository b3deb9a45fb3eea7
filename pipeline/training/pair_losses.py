"""Losses that draw pairs together: an image and its label's text, and images of one class.

Of pseudo-labels that are right with probability a, only about a² of all image pairs of one class
truly are: their terms are weighted by the weights of both images. A text cannot be wrong, so pairs
of an image and a text are right with probability a.
Shapes: N images of a batch, C classes, P dimensions of the common sphere.
"""

import torch
from torch.nn import functional


def contrast_of_images(
    images: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor, *, temperature: float
) -> torch.Tensor:
    """Return the supervised contrastive loss: images of one class against all others.

    Khosla et al. 2020, "Supervised Contrastive Learning", arXiv 2004.11362, equation 2 (the sum
    outside of the logarithm), its means weighted. An image whose class has no other image here is
    no anchor; where there is no anchor the loss is 0.

    Args:
        images: (N, P), rows of unit length.
        labels: (N,) class indices.
        weights: (N,) above 0; a pair counts with the product of both.
        temperature: what cosines are divided by, above 0.
    """
    itself = torch.eye(len(images), dtype=torch.bool, device=images.device)
    logits = (images @ images.T / temperature).masked_fill(itself, float("-inf"))
    # The diagonal is -inf: times its weight of 0 it would be NaN.
    logs = functional.log_softmax(logits, dim=1).masked_fill(itself, 0.0)
    pairs = ((labels[:, None] == labels) & ~itself) * weights
    of_anchor = pairs.sum(dim=1)
    anchors = weights * (of_anchor > 0)
    tiny = torch.finfo(images.dtype).tiny
    losses = -(pairs * logs).sum(dim=1) / of_anchor.clamp_min(tiny)
    return (anchors * losses).sum() / anchors.sum().clamp_min(tiny)


def triplet(
    images: torch.Tensor,
    texts: torch.Tensor,
    labels: torch.Tensor,
    weights: torch.Tensor,
    *,
    margin: float,
) -> torch.Tensor:
    """Return the weighted mean of max(0, margin + cosine of the nearest wrong text - of the own).

    The anchor is an image, the positive the text of its class, the negative the hardest other
    text: the hinge of Schroff et al. 2015 (FaceNet), arXiv 1503.03832, with the hard negatives of
    Faghri et al. 2018 (VSE++), arXiv 1707.05612. With texts as proxies no triplets of images need
    be mined, whose hardest ones would be those with wrong labels.

    Args:
        images: (N, P), rows of unit length.
        texts: (C, P), rows of unit length; C is at least 2.
        labels: (N,) class indices.
        weights: (N,) above 0.
        margin: in cosine, 0 to 2.
    """
    cosines = images @ texts.T
    own = cosines.gather(1, labels[:, None])
    others = cosines.scatter(1, labels[:, None], float("-inf")).amax(dim=1, keepdim=True)
    losses = (margin + others - own).clamp_min(0).squeeze(1)
    return (weights * losses).sum() / weights.sum()
