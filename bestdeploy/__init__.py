"""bestdeploy: exact deployment of binary spiking transformers on ordinary CPUs."""

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    """`bestdeploy.export(module, example_input)`, loaded at first use: importing costs nothing."""
    if name == "export":
        return __import__("bestdeploy.deploy", fromlist=["export_module"]).export_module
    raise AttributeError(f"module 'bestdeploy' has no attribute {name!r}")
