"""Learning rates that change: what an optimiser takes for its ``lr`` and asks before every step.

A schedule is called with the number of steps made so far, 0 at the first, and returns the learning rate of the next.
Any function of that number will do. Knows numbers alone.

References
----------
.. [1] PyTorch, ``torch.optim.lr_scheduler``: StepLR, CosineAnnealingLR, LinearLR, ReduceLROnPlateau,
   https://pytorch.org/docs/stable/optim.html
.. [2] I. Loshchilov, F. Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts", ICLR 2017, equation 5,
   https://arxiv.org/abs/1608.03983
"""

import math

from . import validation

__all__ = ["ReduceOnPlateau", "Schedule", "constant", "cosine", "step_decay", "warmup"]


def as_schedule(lr):
    """A schedule from one, from a function of the number of steps, or from a number."""
    if isinstance(lr, Schedule):
        return lr
    return _Function(lr) if callable(lr) else constant(lr)


class Schedule:
    """What schedules share; one of your own defines ``__call__(step)``, and what it needs of the other methods.

    ``repr`` shows the attributes whose names begin with a letter: the arguments.

    Attributes
    ----------
    monitor : str, optional
        Which number of an epoch ``fit`` gives to ``update``: a name of its history. None: "val_loss", or "loss" where
        there is nothing for validation.
    """

    monitor: str | None = None

    def __call__(self, step):
        """The learning rate of the step that follows ``step`` others."""
        raise NotImplementedError

    def __repr__(self):
        arguments = (f"{name}={argument(value)!r}" for name, value in vars(self).items() if name[0] != "_")
        return f"{type(self).__name__}({', '.join(arguments)})"

    def update(self, value):
        """Take note of what an epoch came to, its loss say: nothing, unless the schedule depends on it."""

    def state_dict(self):
        """A dict of the numbers that change while it is used, by other names than "steps": none, if there are none."""
        return {}

    def load_state_dict(self, state_dict):
        """Go on from what :meth:`state_dict` gave.

        Raises
        ------
        ValueError, TypeError
            If names are missing or unexpected, or a value is out of range; nothing is changed then.
        """
        validation.entries("state", state_dict, self.state_dict(), "this schedule")


def argument(value):
    """A schedule as its user would give it."""
    if isinstance(value, constant):
        return value.lr
    return value.function if isinstance(value, _Function) else value


class _Function(Schedule):
    """A function of the number of steps."""

    def __init__(self, function):
        self.function = function

    def __call__(self, step):
        return self.function(step)


class constant(Schedule):
    """The same learning rate at every step: what becomes of a number.

    Parameters
    ----------
    lr : float

    Examples
    --------
    >>> constant(0.1)(1000)
    0.1
    """

    def __init__(self, lr):
        self.lr = validation.learning_rate("lr", lr)

    def __call__(self, step):
        return self.lr

    def state_dict(self):
        return {"lr": self.lr}

    def load_state_dict(self, state_dict):
        super().load_state_dict(state_dict)
        self.lr = validation.learning_rate("lr", state_dict["lr"])


class step_decay(Schedule):
    """Times ``gamma`` after every ``step_size`` steps: lr * gamma^floor(step / step_size), PyTorch's StepLR [1]_.

    Parameters
    ----------
    lr : float
    step_size : int
        In steps of the optimiser, one per batch, as everywhere here.
    gamma : float in [0, 1], default 0.1

    Examples
    --------
    >>> schedule = step_decay(1.0, step_size=10, gamma=0.5)
    >>> [schedule(step) for step in (0, 9, 10, 20)]
    [1.0, 1.0, 0.5, 0.25]
    """

    def __init__(self, lr, step_size, gamma=0.1):
        self.lr = validation.learning_rate("lr", lr)
        self.step_size = validation.size("step_size", step_size)
        self.gamma = validation.number("gamma", gamma, 0, 1)

    def __call__(self, step):
        return self.lr * self.gamma ** (step // self.step_size)


class cosine(Schedule):
    """Half a cosine from ``lr`` down to ``lr_min``, and then that [2]_; PyTorch's CosineAnnealingLR up to T_max [1]_.

    ::

        lr_min + (lr - lr_min) (1 + cos(pi step / total_steps)) / 2

    Parameters
    ----------
    lr : float
    total_steps : int
    lr_min : float, default 0.0
        At most ``lr``.

    Examples
    --------
    >>> schedule = cosine(1.0, total_steps=100)
    >>> [round(schedule(step), 6) for step in (0, 50, 100, 1000)]
    [1.0, 0.5, 0.0, 0.0]
    """

    def __init__(self, lr, total_steps, lr_min=0.0):
        self.lr = validation.learning_rate("lr", lr)
        self.total_steps = validation.size("total_steps", total_steps)
        self.lr_min = validation.number("lr_min", lr_min, 0, self.lr)

    def __call__(self, step):
        turn = min(step / self.total_steps, 1.0)
        return self.lr_min + (self.lr - self.lr_min) * (1 + math.cos(math.pi * turn)) / 2


class warmup(Schedule):
    """A straight line up to where another schedule begins, and then that schedule.

    ::

        schedule(0) (step + 1) / (steps + 1)   while step < steps,   then schedule(step - steps)

    so that the first step has an effect already: PyTorch's LinearLR with start_factor = 1 / (steps + 1) [1]_.

    Parameters
    ----------
    schedule : schedule, function of the number of steps, or float
    steps : int
        How many steps lie below it.

    Examples
    --------
    >>> schedule = warmup(0.5, steps=4)
    >>> [schedule(step) for step in range(6)]
    [0.1, 0.2, 0.3, 0.4, 0.5, 0.5]
    """

    def __init__(self, schedule, steps):
        self.schedule = as_schedule(schedule)
        self.steps = validation.size("steps", steps, 0)

    def __call__(self, step):
        if step < self.steps:
            return self.schedule(0) * (step + 1) / (self.steps + 1)
        return self.schedule(step - self.steps)

    @property
    def monitor(self):
        return self.schedule.monitor

    def update(self, value):
        self.schedule.update(value)

    def state_dict(self):
        return self.schedule.state_dict()

    def load_state_dict(self, state_dict):
        self.schedule.load_state_dict(state_dict)


class ReduceOnPlateau(Schedule):
    """Times ``factor`` when more than ``patience`` epochs in a row were no better than the best before: PyTorch's
    ReduceLROnPlateau [1]_.

    Call ``update(value)`` after each epoch. A value is better if it is below best - threshold |best|, or with
    ``mode="max"`` above best + threshold |best|; the first is, and NaN never is.

    Parameters
    ----------
    lr : float
        To begin with.
    factor : float in [0, 1), default 0.1
    patience : int, default 10
        Keras' is one more for the same effect: it reduces at the epoch that makes it ``patience``.
    threshold : float, default 1e-4
        Relative. (Keras' min_delta is absolute.)
    mode : {"min", "max"}
        Whether smaller or larger values are better.
    cooldown : int, default 0
        How many epochs after a reduction do not count.
    lr_min : float, default 0.0
        Where the reductions end; at most ``lr``.
    monitor : str, optional
        The value that ``fit`` gives it: a name of its history such as "val_accuracy" (``mode="max"``).

    Examples
    --------
    >>> schedule, rates = ReduceOnPlateau(1.0, factor=0.5, patience=1), []
    >>> for loss in (3.0, 2.0, 2.0, 2.0, 2.0):
    ...     schedule.update(loss)
    ...     rates.append(schedule(0))
    >>> rates
    [1.0, 1.0, 1.0, 0.5, 0.5]
    """

    def __init__(
        self, lr, factor=0.1, patience=10, threshold=1e-4, mode="min", cooldown=0, lr_min=0.0,
        monitor=None,
    ):  # fmt: skip
        self.lr = validation.learning_rate("lr", lr)
        self.factor = validation.number("factor", factor, 0, 1, high_open=True)
        self.patience = validation.size("patience", patience, 0)
        self.threshold = validation.number("threshold", threshold, 0, math.inf, high_open=True)
        self.mode = validation.choice("mode", mode, ("min", "max"))
        self.cooldown = validation.size("cooldown", cooldown, 0)
        self.lr_min = validation.number("lr_min", lr_min, 0, self.lr)
        self.monitor = None if monitor is None else validation.text("monitor", monitor)
        self._now = self.lr
        self._best = math.inf if self.mode == "min" else -math.inf
        self._waited = 0  # epochs without a better value
        self._cooling = 0  # epochs that still do not count

    def __call__(self, step):
        return self._now

    def update(self, value):
        """Take note of an epoch's value, a loss or a metric."""
        value = validation.number("value", value, -math.inf, math.inf) if value == value else math.nan
        margin = self.threshold * abs(self._best) if math.isfinite(self._best) else 0.0
        if value < self._best - margin if self.mode == "min" else value > self._best + margin:
            self._best = value
            self._waited = 0
        else:
            self._waited += 1
        if self._cooling > 0:
            self._cooling -= 1
            self._waited = 0
        if self._waited > self.patience:
            self._now = max(self._now * self.factor, self.lr_min)
            self._cooling = self.cooldown
            self._waited = 0

    def state_dict(self):
        return {"lr": self._now, "best": self._best, "waited": self._waited, "cooling": self._cooling}

    def load_state_dict(self, state_dict):
        super().load_state_dict(state_dict)
        now = validation.learning_rate("lr", state_dict["lr"])
        best = validation.number("best", state_dict["best"], -math.inf, math.inf)
        waited = validation.size("waited", state_dict["waited"], 0)
        cooling = validation.size("cooling", state_dict["cooling"], 0)
        self._now, self._best, self._waited, self._cooling = now, best, waited, cooling
