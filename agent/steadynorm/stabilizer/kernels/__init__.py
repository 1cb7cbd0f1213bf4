"""The Triton kernels, and their verification before use. Only `selection` can be imported without Triton."""
