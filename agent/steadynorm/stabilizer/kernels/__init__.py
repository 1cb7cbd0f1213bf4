"""The Triton kernels, their launcher, and the verification that must pass before they are used. Imported on CUDA
only.
"""
