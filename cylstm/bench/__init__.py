"""The benchmark: contenders are checked against the reference, then timed side by side.

``python -m cylstm bench`` is the quick one; ``benchmarks/`` of the repository builds the full one on these modules.
A contender's process loads this package from its folder under another name, in whichever Python has that library,
so its modules import each other relatively and nothing else of cylstm, which may be another build there.
"""
