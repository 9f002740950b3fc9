"""Reference models and trainers in PyTorch; meets bestdeploy only in checkpoint files."""
