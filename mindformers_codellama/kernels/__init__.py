"""The C++ kernels: building and loading their library, and MindSpore operators around them."""
