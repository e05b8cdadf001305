# The published stubs of TensorFlow lack much and are partly wrong, so it counts as untyped.
from typing import Any

def __getattr__(name: str) -> Any: ...
