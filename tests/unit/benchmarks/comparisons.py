"""Parts of rows of `fewer compare`, made up."""


def difference(arm, reference, mean, target=None, reference_target=None):
    """Make an entry by which an arm leads its reference, a point of the score either way."""
    return {
        "arm": arm,
        "reference": reference,
        "target": target,
        "reference_target": reference_target,
        "mean": mean,
        "low": mean - 0.01,
        "high": mean + 0.01,
    }
