# Level baseline, float64: kernels.pxi with the flags that setup.py gives this name.
include "kernels.pxi"
