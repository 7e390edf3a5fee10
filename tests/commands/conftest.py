from runtime.conftest import bench

__all__ = ["bench"]
