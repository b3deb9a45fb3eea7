"""Named sets of prompt templates: those of the CLIP paper."""

from collections.abc import Sequence

from pipeline.label_set import DEFAULT_TEMPLATE, TEMPLATE_SETS

_CIFAR_SHAPES = (
    "a photo of {} {{}}.",
    "a blurry photo of {} {{}}.",
    "a black and white photo of {} {{}}.",
    "a low contrast photo of {} {{}}.",
    "a high contrast photo of {} {{}}.",
    "a bad photo of {} {{}}.",
    "a good photo of {} {{}}.",
    "a photo of {} small {{}}.",
    "a photo of {} big {{}}.",
)


def template_set(name: str) -> tuple[str, ...]:
    """Return the templates of a named set.

    Radford et al. 2021, "Learning Transferable Visual Models From Natural Language Supervision",
    used 18 for CIFAR-10 and CIFAR-100 and 80 for ImageNet, as published with their code.

    Args:
        name: one, cifar or imagenet.

    >>> [len(template_set(name)) for name in TEMPLATE_SETS]
    [1, 18, 80]
    """
    if name == "one":
        return (DEFAULT_TEMPLATE,)
    if name == "cifar":
        return tuple(shape.format(article) for article in ("a", "the") for shape in _CIFAR_SHAPES)
    # Here, for it loads torch: a run that finds its labels' vectors in the store does not need it.
    from open_clip.zero_shot_metadata import OPENAI_IMAGENET_TEMPLATES

    return tuple(make("{}") for make in OPENAI_IMAGENET_TEMPLATES)


def expanded(templates: Sequence[str]) -> dict[str, bool]:
    """Return every template once, those of named sets in the place of their names.

    The value tells whether it is of a set: into "a photo of my {}." no article should go.

    >>> expanded(["an eye with {}", "one"])
    {'an eye with {}': False, 'a photo of a {}.': True}
    """
    found: dict[str, bool] = {}
    for entry in templates:
        named = entry in TEMPLATE_SETS
        for template in template_set(entry) if named else (entry,):
            found.setdefault(template, named)
    return found
