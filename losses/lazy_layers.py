"""Lets Keras load models that hold layers of this package before the layers' modules are imported."""

import importlib
import importlib.util
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace


def register_layers(package: str, modules: dict[str, str]) -> None:
    """Registers layers with Keras at once, or as soon as something imports Keras.

    Keras looks up the class of a saved layer by its registered name and imports nothing to find it. Importing
    the classes here would import TensorFlow, which takes seconds. So the registry gets an object that imports
    the class when Keras restores a layer. Once a class is imported, it takes that place.

    Args:
        package: name of the package that holds the modules.
        modules: module of each class, relative to the package, such as `{"ArcFaceLoss": ".arcface"}`.
    """

    def register(keras: ModuleType) -> None:
        for name, module in modules.items():

            def from_config(config: dict, name: str = name, module: str = module) -> object:
                return getattr(importlib.import_module(module, package), name).from_config(config)

            stand_in = SimpleNamespace(from_config=from_config)
            keras.saving.get_custom_objects().setdefault(f"margin_centre_face>{name}", stand_in)

    if "keras" in sys.modules:
        register(sys.modules["keras"])
    else:
        sys.meta_path.insert(0, _KerasImportHook(register))


class _KerasImportHook:
    """Calls a function with the module `keras` after its first import."""

    def __init__(self, function: Callable[[ModuleType], None]) -> None:
        self._function = function
        self._is_searching = False

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if name != "keras" or self._is_searching:
            return None
        self._is_searching = True
        spec = importlib.util.find_spec(name)  # asks the other finders
        self._is_searching = False
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                execute(module)
                sys.meta_path.remove(self)
                self._function(module)

            spec.loader.exec_module = exec_module
        return spec
