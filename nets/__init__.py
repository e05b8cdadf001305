"""Images -> embeddings. `nets.build_backbone` builds a net by its name, `nets.load_backbone` loads one."""


def build_backbone(name, **arguments):
    """Builds a net by its name; arguments as those of `nets.backbone.Backbone`."""
    from .backbone import Backbone  # not before it is needed: it imports TensorFlow

    return Backbone(name, **arguments)


def load_backbone(path):
    """Loads a net from whatever holds its weights; see `nets.importers.load.load_backbone`."""
    from .importers.load import load_backbone as load

    return load(path)
