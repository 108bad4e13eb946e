"""Predictions whose images and groups are named by keyed digests."""

from typing import TYPE_CHECKING

from benchmarks.storage.name_key import hashed

if TYPE_CHECKING:
    import pandas as pd


def hash_names(probabilities: "pd.DataFrame", key: bytes) -> "pd.DataFrame":
    """Predictions with digests in the place of names, the same for equal names; without a group, none.

    Rows are put in the order of the digests: in their own, which is that of the names, a list of the files of the
    dataset would be enough to name them again.

    Args:
        probabilities: As `store_run` takes them.
        key: The dataset's.
    """
    frame = probabilities.assign(path=[hashed(path, "image", key) for path in probabilities["path"]])
    if "group" in frame:
        frame["group"] = [group and hashed(group, "group", key) for group in frame["group"]]
    splits = dict.fromkeys(frame["split"])
    parts = [frame[frame["split"] == split].sort_values("path") for split in splits]
    import pandas as pd

    return pd.concat(parts, ignore_index=True)
