"""What pytest leaves out of the examples in docstrings: the module that needs PyTorch, where that is not installed."""

import importlib.util

collect_ignore = [] if importlib.util.find_spec("torch") else ["cylstm/torch.py"]
