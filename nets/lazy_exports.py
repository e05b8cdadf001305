"""Exports the public names of a package without importing TensorFlow or Keras before one of them is used."""

import importlib
import importlib.abc
import importlib.util
import sys
from collections.abc import Callable
from typing import Any

_KERAS_PACKAGE = "margin_centre_face"  # the classes register themselves under this name


def export_lazily(package: str, modules: dict[str, str]) -> Callable[[str], Any]:
    """Makes public names importable on first use, and their classes known to `keras.saving.load_model`.

    Args:
        package: `__name__` of the package.
        modules: dict from public name to relative module, such as `{"PReLU": ".layers.prelu"}`.

    Returns:
        The `__getattr__` of the package, see PEP 562.
    """

    def load(name):
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(modules[name], package), name)

    stand_ins = {f"{_KERAS_PACKAGE}>{name}": _StandIn(load, name) for name in modules if name[0].isupper()}
    if hasattr(sys.modules.get("keras"), "saving"):
        _register(stand_ins)
    else:
        sys.meta_path.insert(0, _KerasFinder(stand_ins))
    return load


class _StandIn:
    """Stands for a class in Keras's registry until the module of the class registers the class itself."""

    def __init__(self, load, name):
        self._load = load
        self._name = name

    def from_config(self, config):
        return self._load(self._name).from_config(config)


def _register(stand_ins):
    import keras

    registry = keras.saving.get_custom_objects()
    registry.update({name: stand_in for name, stand_in in stand_ins.items() if name not in registry})


class _KerasFinder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Registers the stand-ins right after somebody else imports Keras."""

    def __init__(self, stand_ins):
        self._stand_ins = stand_ins

    def find_spec(self, fullname, path, target=None):
        if fullname != "keras":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None:
            self._loader, spec.loader = spec.loader, self
        return spec

    def create_module(self, spec):
        return self._loader.create_module(spec)

    def exec_module(self, module):
        module.__spec__.loader = module.__loader__ = self._loader
        self._loader.exec_module(module)
        _register(self._stand_ins)
