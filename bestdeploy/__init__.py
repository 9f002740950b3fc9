"""bestdeploy: exact deployment of binary spiking transformers on ordinary CPUs."""

__version__ = "0.1.0"
