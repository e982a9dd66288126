"""What a trial runs: functions and classes, with parameters and resources."""

from weft.tune.trainable.function_trainable import FunctionTrainable, wrap_function
from weft.tune.trainable.trainable import Trainable
from weft.tune.trainable.util import with_parameters, with_resources

__all__ = [
    "FunctionTrainable",
    "Trainable",
    "with_parameters",
    "with_resources",
    "wrap_function",
]
