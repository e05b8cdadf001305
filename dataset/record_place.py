"""Where a training image lies."""

import dataclasses
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class RecordPlace:
    """One record of a converted source, as a person can find it again.

    Attributes:
        source: str, name of the source.
        record: int, row of the source's index.
        label: int, its identity within the source.
        identity: int, its identity in the run, where sources are numbered through.
        shard: Path of the TFRecord file.
        offset: int, bytes from the start of the shard to the record.
        length: int, bytes of its data.
    """

    source: str
    record: int
    label: int
    identity: int
    shard: Path
    offset: int
    length: int

    def __str__(self):
        which = f"record {self.record} of {self.source}, label {self.label}"
        return f"{self.shard}: record at byte {self.offset} ({which})"
