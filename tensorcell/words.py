"""Words that the texts of several commands share."""

from __future__ import annotations

ORDINALS = {2: "second", 3: "third", 4: "fourth", 5: "fifth", 6: "sixth", 7: "seventh", 8: "eighth"}


def as_sentence(text: str) -> str:
    """The text with a capital letter and a full stop."""
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")


def planes_in_words(factor: int) -> str:
    """Which planes are measured.

    >>> planes_in_words(1), planes_in_words(2), planes_in_words(21)
    ('every plane', 'every second plane', 'every 21st plane')
    """
    if factor == 1:
        return "every plane"
    if factor in ORDINALS:
        return f"every {ORDINALS[factor]} plane"
    teen = factor // 10 % 10 == 1
    ending = "th" if teen else {1: "st", 2: "nd", 3: "rd"}.get(factor % 10, "th")
    return f"every {factor}{ending} plane"


def depth_in_words(length: float, unit: str) -> str:
    """A length along z; where the voxel size is unknown, it is counted in voxels of what was given.

    >>> depth_in_words(1.25, "um"), depth_in_words(4.0, "plane")
    ('1.25 um', '4 voxels of the given stack')
    """
    return f"{length:.3g} um" if unit == "um" else f"{length:.3g} voxels of the given stack"


def percent(share: float) -> str:
    """A share in percent, never rounded to all or nothing.

    >>> percent(0.5), percent(0.9996), percent(0.0001)
    ('50 %', '99.9 %', 'less than 0.1 %')
    """
    if share < 1e-3:
        return "less than 0.1 %"
    return f"{min(100 * share, 99.9):.3g} %"
