"""`kt`: run and fine-tune huge Mixture-of-Experts models on one workstation."""

__version__ = "0.1.0"
